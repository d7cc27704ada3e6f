"""Adam's running moments of one gradient.

Reference: Kingma & Ba, ICLR 2015, arXiv:1412.6980, algorithm 1.
Shapes: D input shape.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.types import record

DECAY, DECAY_SQUARE, TINY = 0.9, 0.999, 1e-8


@record
class Moments:
    """mean and square [D]: decaying averages of the gradient and of its square; count: gradients seen."""

    mean: jax.Array
    square: jax.Array
    count: jax.Array

    @classmethod
    def zero(cls, like: jax.Array) -> "Moments":
        return cls(jnp.zeros_like(like), jnp.zeros_like(like), jnp.zeros((), jnp.int32))

    def seen(self, gradient: jax.Array) -> "Moments":
        """After one more gradient [D]."""
        return Moments(
            DECAY * self.mean + (1 - DECAY) * gradient,
            DECAY_SQUARE * self.square + (1 - DECAY_SQUARE) * gradient**2,
            self.count + 1,
        )

    @property
    def scale(self) -> jax.Array:
        """sqrt(v) + tiny [D], what the mean is divided by; bias corrected."""
        return jnp.sqrt(self.square / (1 - DECAY_SQUARE**self.count)) + TINY

    @property
    def direction(self) -> jax.Array:
        """m / (sqrt(v) + tiny) [D]; a step of descent is minus the learning rate times this."""
        return self.mean / (1 - DECAY**self.count) / self.scale
