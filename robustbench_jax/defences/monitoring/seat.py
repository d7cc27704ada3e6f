"""seat(): pairs of queries that an encoder finds too similar.

Reference: Zhang, Chen & Wagner, AISec 2021, doi:10.1145/3474369.3486863: an account is closed when so many of its
queries were similar to an earlier one of its own.
Departs from the paper: there an encoder is trained adversarially so that it stays near under attack; here it is the
watched model's features, or a projection of the pixels. The distance below which two queries are similar is the one
that a share `similar` of training images have to the nearest of `COMPARED` others. An image that is sent again to the
bit does not count.
Shapes: F features.
"""

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from robustbench_jax.defences.monitoring.encoder import encoder, require_kind
from robustbench_jax.defences.monitoring.recent import Recent, distances
from robustbench_jax.keys import stream
from robustbench_jax.registry import register
from robustbench_jax.streams import DAY
from robustbench_jax.traffic import Monitor, Request
from robustbench_jax.types import UserError, require_positive

COMPARED = 1000  # training images


@dataclass(eq=False)
class State:
    """recent: encoded queries. pairs: when queries were similar to an earlier one."""

    recent: Recent
    pairs: deque = field(default_factory=deque)


@register("monitor", "seat", paper="zhang2021", given=("learnt",))
@dataclass(frozen=True)
class Seat(Monitor):
    """encoder: "features" or "pixels". capacity: queries that are remembered, for `memory` seconds at most."""

    encoder: str = "features"
    similar: float = 0.01
    capacity: int = 1000
    memory: float = DAY
    threshold: float | None = None
    rate: float = 0.01
    learnt: Any = None

    def __post_init__(self):
        super().__post_init__()
        require_kind("seat", self.encoder)
        require_positive("seat", capacity=self.capacity, memory=self.memory)
        if not 0 < self.similar < 1:
            raise UserError(f"seat: similar = {self.similar} must be between 0 and 1")

    def learn(self, key, model, data) -> "Seat":
        encode = encoder("seat", self.encoder, stream(key, "encoder"), model, data.x.shape[1:])
        order = np.asarray(jax.random.permutation(stream(key, "rows"), len(data)))[: 2 * COMPARED]
        rows = encode.many(data.x[order])
        half = len(rows) // 2
        nearest = [distances(rows[:half], row).min() for row in rows[half:]] if half else [0.0]
        return replace(self, learnt=(encode, float(np.quantile(nearest, self.similar))))

    def init(self) -> State:
        return State(Recent(self.capacity, self.memory))

    def score(self, state: State, request: Request) -> tuple[float, dict[str, Any]]:
        (encode, limit), recent = self.learnt, state.recent
        recent.forget(request.time)
        while state.pairs and state.pairs[0] <= request.time - self.memory:
            state.pairs.popleft()
        row, found = encode(request.x), {"distance": None, "nearest_request": -1}
        if len(recent):
            away = distances(recent.rows, row)
            place = int(np.argmin(away))
            found = {"distance": float(away[place]), "nearest_request": int(recent.numbers[place])}
            if 0 < away[place] < limit:
                state.pairs.append(request.time)
        if found["distance"] != 0:
            recent.add(row, request)
        return float(len(state.pairs)), {"pairs": len(state.pairs), "similar_below": limit, **found}
