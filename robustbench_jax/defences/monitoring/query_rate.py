"""query_rate(): how much an account asks in a while. It looks at no image: what others have to be better than.

Source: none; the limit of every public service.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any

from robustbench_jax.registry import register
from robustbench_jax.traffic import Monitor, Request
from robustbench_jax.types import require_positive


@register("monitor", "query_rate")
@dataclass(frozen=True)
class QueryRate(Monitor):
    """window: seconds in which requests are counted. capacity: the most that are."""

    window: float = 3600.0
    capacity: int = 10_000
    threshold: float | None = None
    rate: float = 0.01

    def __post_init__(self):
        super().__post_init__()
        require_positive("query_rate", window=self.window, capacity=self.capacity)

    def init(self) -> deque:
        return deque(maxlen=self.capacity)

    def score(self, state: deque, request: Request) -> tuple[float, dict[str, Any]]:
        while state and state[0] <= request.time - self.window:
            state.popleft()
        state.append(request.time)
        return float(len(state)), {"requests": len(state), "seconds": self.window}
