"""Shrunk: what stands before a network that looks at smaller images than it is given.

Shapes: [H, W, C] to [H / factor, W / factor, C], by means of squares.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.types import record, static


@record
class Shrunk:
    """factor: a divisor of height and width."""

    factor: int = static(default=2)

    def transform(self, key: jax.Array | None, x: jax.Array) -> jax.Array:
        return smaller(x, self.factor)

    past = transform


def smaller(x, factor: int):
    """[..., H, W, C] to [..., H / factor, W / factor, C]."""
    *lead, height, width, channels = x.shape
    squares = x.reshape(*lead, height // factor, factor, width // factor, factor, channels)
    return jnp.mean(squares, axis=(-4, -2))
