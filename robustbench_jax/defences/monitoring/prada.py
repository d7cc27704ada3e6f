"""prada(): the distances between an account's queries are no longer normally distributed.

Reference: Juuti et al., EuroS&P 2019, arXiv:1805.02628. Of every query the distance to the nearest one in the growing
set of its class is taken; it joins that set where the distance is above the set's threshold, which is the largest that
mean minus standard deviation of the set's own distances has been. Distances further than 3 standard deviations from
their mean are left out, and there is an alarm where the Shapiro-Wilk statistic W of the others is below delta.
Departs from the paper: the statistic is that of the last `window` distances, since W depends on how many there are;
there it is of all of them, once there are 100. A growing set has at most `capacity` images, all classes together. The
score is 1 - W: threshold=0.1 is delta = 0.9.
Shapes: D input shape.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import shapiro

from robustbench_jax.defences.monitoring.recent import distances
from robustbench_jax.registry import register
from robustbench_jax.traffic import Monitor, Request
from robustbench_jax.types import UserError, require_positive

OUTLYING = 3.0  # standard deviations


@dataclass(eq=False)
class Growing:
    """The growing set of one class: images uint8 [D], and the distance at which each came; threshold: see above."""

    images: list[np.ndarray] = field(default_factory=list)
    came_at: list[float] = field(default_factory=list)
    threshold: float = 0.0


@dataclass(eq=False)
class State:
    """sets: by class. seen: the last distances. w: of those, None for too few."""

    sets: dict[int, Growing] = field(default_factory=dict)
    seen: deque = field(default_factory=deque)


@register("monitor", "prada", paper="juuti2019")
@dataclass(frozen=True)
class Prada(Monitor):
    """window: distances that W is of. capacity: see above. across, threshold, rate: see Monitor."""

    window: int = 100
    capacity: int = 1000
    across: bool = False
    threshold: float | None = None
    rate: float = 0.01
    warm = 3

    def __post_init__(self):
        super().__post_init__()
        require_positive("prada", capacity=self.capacity)
        if self.window < 10:
            raise UserError(f"prada: window = {self.window} must be at least 10, for a statistic of so many distances")

    def init(self) -> State:
        return State()

    def score(self, state: State, request: Request) -> tuple[float, dict[str, Any]]:
        label = int(np.argmax(request.logits))
        distance = self._met(state, label, request.x)
        if distance is not None:
            state.seen.append(distance)
            if len(state.seen) > self.window:
                state.seen.popleft()
        if len(state.seen) < self.window:
            return 0.0, {"w": None, "distances": len(state.seen), "class": label}
        w = statistic(np.array(state.seen))
        return 1.0 - w, {
            "w": w,
            "distances": len(state.seen),
            "class": label,
            "mean_distance": float(np.mean(state.seen)),
        }

    def _met(self, state: State, label: int, x: np.ndarray) -> float | None:
        """The distance of x to its class's growing set, which it may join; None where it is the first of its class."""
        x = x.ravel()
        own = state.sets.setdefault(label, Growing())
        distance = float(distances(np.stack(own.images), x).min()) / 255 if own.images else None
        if distance is None or distance > own.threshold:
            self._joins(state, own, x, distance or 0.0)
        return distance

    def _joins(self, state: State, own: Growing, x: np.ndarray, distance: float) -> None:
        own.images.append(x)
        own.came_at.append(distance)
        own.threshold = max(own.threshold, float(np.mean(own.came_at) - np.std(own.came_at)))
        if sum(len(it.images) for it in state.sets.values()) > self.capacity:
            fullest = max(state.sets.values(), key=lambda it: len(it.images))
            del fullest.images[0], fullest.came_at[0]


def statistic(seen: np.ndarray) -> float:
    """Shapiro and Wilk's W of distances [window] without those that are outlying; 0 where all are equal."""
    kept = seen[np.abs(seen - seen.mean()) <= OUTLYING * seen.std()]
    return float(shapiro(kept).statistic) if np.ptp(kept) > 0 else 0.0
