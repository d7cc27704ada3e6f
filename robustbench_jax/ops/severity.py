"""The budget of common corruptions: a level from 1 to 5, not a distance.

Reference: Hendrycks & Dietterich, ICLR 2019, arXiv:1903.12261.
"""

from typing import Any

import jax
import numpy as np

from robustbench_jax.registry import register
from robustbench_jax.types import UserError, record

LEVELS = (1, 2, 3, 4, 5)


@register("budget", "severity", threat="corruption", paper="hendrycks2019")
@record
class Severity:
    """How strong a corruption is, from 1 (weak) to 5 (strong). A traced number: another level compiles nothing."""

    level: int

    def __post_init__(self):
        if _is_number(self.level) and self.level not in LEVELS:
            nearest = min(max(round(self.level), 1), 5) if np.isfinite(self.level) else 5
            raise UserError(f"severity: level = {self.level} must be 1 to 5; did you mean severity({nearest})?")

    def identity(self, x: jax.Array) -> jax.Array:
        """The image that changes nothing."""
        return x

    def render(self, x: jax.Array, z: jax.Array) -> jax.Array:
        """A corrupted image stands for itself."""
        return z


@register("budget", "unchanged", threat="corruption")
@record
class Unchanged:
    """For images that are left as they are, because they were corrupted before or are meant to be clean."""

    level = 0

    def identity(self, x: jax.Array) -> jax.Array:
        """The image that changes nothing."""
        return x

    def render(self, x: jax.Array, z: jax.Array) -> jax.Array:
        """An image stands for itself."""
        return z


def _is_number(level: Any) -> bool:
    return isinstance(level, int | float | np.number) and not isinstance(level, bool)
