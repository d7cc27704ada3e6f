"""The budget of model inversion: reconstructions(n), how many images of each class the attacker hands in."""

from robustbench_jax.registry import register
from robustbench_jax.types import UserError, record, static


@register("budget", "reconstructions", threat="model_inversion")
@record
class Reconstructions:
    """n: of each class."""

    n: int = static()

    def __post_init__(self):
        if self.n < 1:
            raise UserError(f"reconstructions: n = {self.n} must be at least 1")
