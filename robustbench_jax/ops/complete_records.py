"""The budget of attacks on attributes: complete(n), how many records the attacker knows whole, attribute included."""

from robustbench_jax.registry import register
from robustbench_jax.types import UserError, record


@register("budget", "complete", threat="attribute")
@record
class Complete:
    """n: of records of the same source that no model was trained on."""

    n: int

    def __post_init__(self):
        if isinstance(self.n, int) and not isinstance(self.n, bool) and self.n < 2:
            raise UserError(f"complete: n = {self.n} must be at least 2")
