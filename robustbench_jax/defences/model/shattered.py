"""shattered(levels): a staircase whose treads fall, so that gradients point the wrong way.

Reference: shattered gradients, Athalye, Carlini & Wagner, ICML 2018, arXiv:1802.00420. It defends nothing: it is here
to be seen through. With q the nearest of `levels` + 1 values from 0 to 1, what the model sees is q - slope (x - q): at
255 levels an 8-bit image is what it was, any other is within (1 + slope) / 510 of it, and the derivative is -slope.
An attack that follows it descends where it should ascend; one that goes past it, or asks for answers alone, does not.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.defences.model.preprocessing import Preprocessing
from robustbench_jax.registry import register
from robustbench_jax.types import UserError, record


@register("model_defence", "shattered", paper="athalye2018obfuscated", obfuscates=True)
@record
class Shattered(Preprocessing):
    """slope: how fast treads fall; 0 for level ones, whose derivative is 0."""

    levels: int = 255
    slope: float = 1.0
    differentiable = False

    def __post_init__(self):
        if isinstance(self.levels, int) and self.levels < 1:
            raise UserError(f"shattered: levels = {self.levels} must be at least 1")
        if isinstance(self.slope, int | float) and self.slope < 0:
            raise UserError(f"shattered: slope = {self.slope} must be at least 0")

    def transform(self, key: jax.Array | None, x: jax.Array) -> jax.Array:
        tread = jnp.round(x * self.levels) / self.levels
        return jnp.clip(tread - self.slope * (x - tread), 0.0, 1.0)
