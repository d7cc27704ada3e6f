"""Budgets of poisoning: how many training images the attacker may change or add.

`rate(0.05)` is a share of all training images, `count(25)` a number of them, `flips(25)` a number of their labels.
Clean-label attacks change images of one class only: the share of that class is the rate times the number of classes
where classes are balanced.
"""

from typing import Any

from robustbench_jax.registry import register
from robustbench_jax.types import UserError, record


@register("budget", "rate", threat="poisoning")
@record
class Rate:
    """p: share of all training images, from 0 to 1."""

    p: float

    def __post_init__(self):
        if _is_number(self.p) and not 0 <= self.p <= 1:
            raise UserError(f"rate: p = {self.p} must be from 0 to 1; did you mean rate({self.p}/100)?")

    def size(self, images: int) -> int:
        """How many of so many training images: rounded to the nearest number, halves up."""
        return int(self.p * images + 0.5)


@register("budget", "count", threat="poisoning")
@record
class Count:
    """n: number of training images."""

    n: int

    def __post_init__(self):
        if _is_number(self.n) and self.n < 0:
            raise UserError(f"count: n = {self.n} must be at least 0")

    def size(self, images: int) -> int:
        """n. Raises UserError where there are fewer images."""
        if self.n > images:
            raise UserError(f"count({self.n}): there are {images} training images")
        return self.n


@register("budget", "flips", threat="poisoning")
@record
class Flips:
    """n: number of training images that get another label, and nothing else: what certificates of labels are about."""

    n: int

    def __post_init__(self):
        if _is_number(self.n) and self.n < 0:
            raise UserError(f"flips: n = {self.n} must be at least 0")

    def size(self, images: int) -> int:
        """n. Raises UserError where there are fewer images."""
        if self.n > images:
            raise UserError(f"flips({self.n}): there are {images} training images")
        return self.n


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
