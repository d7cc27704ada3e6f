"""coverage(): how much of what the model has learnt an account's queries have covered.

Reference: Kesarwani et al., ACSAC 2018, arXiv:1711.07221: summaries of queries tell how much of the input space, as
training data fill it, a user has covered, and so what he can have learnt of the model.
Departs from the paper: there the space is cut by the watched decision tree; here into the Voronoi cells of `cells`
training images, in a projection of the pixels or the watched model's features. The score is the share of training
images whose cell was visited. Images that are nothing like training images lie in few cells.
Shapes: F features.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from robustbench_jax.defences.monitoring.encoder import encoder, require_kind
from robustbench_jax.defences.monitoring.recent import distances
from robustbench_jax.keys import stream
from robustbench_jax.registry import register
from robustbench_jax.streams import DAY
from robustbench_jax.traffic import Monitor, Request
from robustbench_jax.types import UserError, require_positive

WEIGHED = 5000  # training images that say how much a cell weighs


@register("monitor", "coverage", paper="kesarwani2018", given=("learnt",))
@dataclass(frozen=True)
class Coverage(Monitor):
    """encoder: "pixels" or "features". memory: seconds for which a visit counts."""

    cells: int = 256
    encoder: str = "pixels"
    memory: float = DAY
    threshold: float | None = None
    rate: float = 0.01
    learnt: Any = None

    def __post_init__(self):
        super().__post_init__()
        require_kind("coverage", self.encoder)
        require_positive("coverage", memory=self.memory)
        if self.cells < 2:
            raise UserError(f"coverage: cells = {self.cells} must be at least 2")

    def learn(self, key, model, data) -> "Coverage":
        encode = encoder("coverage", self.encoder, stream(key, "encoder"), model, data.x.shape[1:])
        order = np.asarray(jax.random.permutation(stream(key, "rows"), len(data)))
        centres = encode.many(data.x[order[: self.cells]])
        cells = [int(np.argmin(distances(centres, row))) for row in encode.many(data.x[order[:WEIGHED]])]
        return replace(self, learnt=(encode, centres, np.bincount(cells, minlength=len(centres)) / len(cells)))

    def init(self) -> dict[int, float]:
        """When each cell was last visited."""
        return {}

    def score(self, state: dict[int, float], request: Request) -> tuple[float, dict[str, Any]]:
        encode, centres, weights = self.learnt
        cell = int(np.argmin(distances(centres, encode(request.x))))
        state[cell] = request.time
        visited = [it for it, time in state.items() if time > request.time - self.memory]
        covered = float(weights[visited].sum())
        return covered, {"cells_visited": len(visited), "cells": len(centres), "cell": cell, "covered": covered}
