"""The budget of thieves: images(n), how many labelled images of the owner's source they have, none of them hers."""

from robustbench_jax.registry import register
from robustbench_jax.types import UserError, record


@register("budget", "images", threat="ownership")
@record
class Images:
    """n: to train on, or to ask the owner's service about."""

    n: int

    def __post_init__(self):
        if isinstance(self.n, int) and not isinstance(self.n, bool) and self.n < 1:
            raise UserError(f"images: n = {self.n} must be at least 1")
