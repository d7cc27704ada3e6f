"""The budget of audits by many trainings: runs(n), how many are run with the canary, and as many without it."""

from robustbench_jax.registry import register
from robustbench_jax.types import UserError, record, static


@register("budget", "runs", threat="repeated_audit")
@record
class Runs:
    """n: even; one half of them fixes the test, the other bounds the loss."""

    n: int = static()

    def __post_init__(self):
        if self.n < 2 or self.n % 2:
            raise UserError(f"runs: n = {self.n} must be even and at least 2: one half fixes the test")
