"""Seconds spent compiling, apart from seconds spent running; and what one image takes to be classified.

JAX reports the duration of every trace, lowering and backend compilation; a Clock adds up those that fall between
its start and its stop.
"""

import time
from dataclasses import dataclass, field

import jax
import numpy as np

from robustbench_jax.ops.judge import classify
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.types import Classifier

REPEATS = 3


@dataclass
class Clock:
    """`with Clock() as clock: ...` then `clock.compile_s` and `clock.run_s` (wall time less compile time)."""

    compile_s: float = 0.0
    wall_s: float = 0.0
    _began: float = field(default=0.0, repr=False)

    def __enter__(self) -> "Clock":
        self._began = time.perf_counter()
        _running.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _running.remove(self)
        self.wall_s = time.perf_counter() - self._began

    @property
    def run_s(self) -> float:
        return max(self.wall_s - self.compile_s, 0.0)


def per_image(model: Classifier, x: np.ndarray, runtime: Runtime) -> float:
    """Seconds that the judge takes to classify one image of x [N, D], all its draws where the model is randomised: the
    median of a few runs over a bucket of them, after one that compiles.
    """
    x, seconds = x[: runtime.batch], []
    for _ in range(1 + REPEATS):
        began = time.perf_counter()
        classify(model, x, runtime)
        seconds.append((time.perf_counter() - began) / len(x))
    return float(np.median(seconds[1:]))


_running: list[Clock] = []


def _listen(event: str, duration: float, **_: object) -> None:
    if event.startswith("/jax/core/compile/"):
        for clock in _running:
            clock.compile_s += duration


jax.monitoring.register_event_duration_secs_listener(_listen)
