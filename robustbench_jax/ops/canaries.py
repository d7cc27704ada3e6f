"""The budget of audits: canaries(n), how many examples an auditor plants, each of them in or out by a coin."""

from robustbench_jax.registry import register
from robustbench_jax.types import UserError, record


@register("budget", "canaries", threat="audit")
@record
class Canaries:
    """n: of the training images."""

    n: int

    def __post_init__(self):
        if isinstance(self.n, int) and not isinstance(self.n, bool) and self.n < 2:
            raise UserError(f"canaries: n = {self.n} must be at least 2")
