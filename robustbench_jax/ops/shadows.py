"""The budget of attacks on privacy: shadows(n), how many models the attacker trains on data like the victim's."""

from typing import Any

from robustbench_jax.registry import register
from robustbench_jax.types import UserError, record


@register("budget", "shadows", threat="membership")
@record
class Shadows:
    """n: even, since they come in pairs that are trained on the two halves of the images; 0 for none."""

    n: int

    def __post_init__(self):
        if _is_whole(self.n) and (self.n < 0 or self.n % 2):
            raise UserError(f"shadows: n = {self.n} must be even and at least 0: each pair shares the images")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
