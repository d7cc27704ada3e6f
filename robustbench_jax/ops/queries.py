"""The budget of a thief: queries(n), how many answers of the victim he may have."""

from typing import Any

from robustbench_jax.registry import register
from robustbench_jax.types import UserError, record


@register("budget", "queries", threat="extraction")
@record
class Queries:
    """n: answers, repeated questions counted each time. eps: of the Linf ball in which images that fool the clone are
    tried on the victim afterwards; these cost no queries.
    """

    n: int
    eps: float = 8 / 255

    def __post_init__(self):
        if _is_whole(self.n) and self.n < 1:
            raise UserError(f"queries: n = {self.n} must be at least 1")
        if isinstance(self.eps, int | float) and not 0 < self.eps <= 1:
            raise UserError(f"queries: eps = {self.eps} must be above 0 and at most 1")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
