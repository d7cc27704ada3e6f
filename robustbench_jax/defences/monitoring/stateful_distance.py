"""stateful_distance(): queries whose nearest earlier ones are nearer than those of honest queries.

Reference: Chen, Carlini & Wagner, SPAI 2020, arXiv:1907.05587: the mean distance of a query to the k nearest of an
account's earlier ones, in the space of a similarity encoder.
Departs from the paper: there k = 50, for accounts that ask more than these, and the threshold is the 0.1% quantile of
training images; the encoder is trained to be near under small transformations, and here it is a projection of the
pixels or the watched model's features. The history is not emptied after an alarm: otherwise an alarm would hide what
comes next. The score is 1 / distance, and 0 before there are k earlier queries.
Shapes: F features.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from robustbench_jax.defences.monitoring.encoder import encoder, require_kind
from robustbench_jax.defences.monitoring.recent import Recent, distances
from robustbench_jax.registry import register
from robustbench_jax.streams import DAY
from robustbench_jax.traffic import Monitor, Request
from robustbench_jax.types import require_positive

SMALLEST = 1e-6  # distance; the score is at most its reciprocal


@register("monitor", "stateful_distance", paper="chen2020stateful", given=("encode",))
@dataclass(frozen=True)
class StatefulDistance(Monitor):
    """encoder: "pixels" or "features". capacity: queries that are remembered, for `memory` seconds at most."""

    k: int = 10
    encoder: str = "pixels"
    capacity: int = 10_000
    memory: float = DAY
    across: bool = False
    threshold: float | None = None
    rate: float = 0.01
    encode: Any = None

    def __post_init__(self):
        super().__post_init__()
        require_kind("stateful_distance", self.encoder)
        require_positive("stateful_distance", k=self.k, capacity=self.capacity, memory=self.memory)

    def learn(self, key, model, data) -> "StatefulDistance":
        return replace(self, encode=encoder("stateful_distance", self.encoder, key, model, data.x.shape[1:]))

    def init(self) -> Recent:
        return Recent(self.capacity, self.memory)

    def score(self, state: Recent, request: Request) -> tuple[float, dict[str, Any]]:
        state.forget(request.time)
        row, found, score = self.encode(request.x), {"distance": None, "nearest_requests": []}, 0.0
        if len(state) >= self.k:
            away = distances(state.rows, row)
            near = np.argpartition(away, self.k - 1)[: self.k]
            distance = float(np.mean(away[near]))
            score = 1 / max(distance, SMALLEST)
            found = {"distance": distance, "nearest_requests": sorted(state.numbers[near].tolist())}
        state.add(row, request)
        return score, found
