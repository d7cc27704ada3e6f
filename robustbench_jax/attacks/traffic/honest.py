"""honest(): nobody attacks. Every alarm that its days raise is a false one.

Source: none; the habits are those of streams.py.
"""

from dataclasses import dataclass, replace

from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import register
from robustbench_jax.streams import USUAL, Habits, QueryStream, benign
from robustbench_jax.types import UserError


@register("attack", "honest", threat="monitoring", access="none")
@dataclass(frozen=True)
class Honest(QueryStream):
    """again, varied, taste: see Habits."""

    again: float = USUAL.again
    varied: float = USUAL.varied
    taste: float = USUAL.taste
    honest = True

    def __post_init__(self):
        if min(self.again, self.varied) < 0 or self.again + self.varied > 1:
            raise UserError(f"honest: again = {self.again} and varied = {self.varied} must be shares of one whole")
        if not self.taste > 0:
            raise UserError(f"honest: taste = {self.taste} must be greater than 0")

    @property
    def habits(self) -> Habits:
        return replace(USUAL, again=self.again, varied=self.varied, taste=self.taste)

    def record(self, key, model, data, count, queries, *, runtime=Runtime()):
        return benign(key, model, data, count, 1, habits=replace(self.habits, queries=queries), runtime=runtime)
