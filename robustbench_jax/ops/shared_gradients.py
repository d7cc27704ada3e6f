"""The budget of gradient inversion: gradients(batch, ...), what a client of federated learning shares of its images.

It is the gradient of the mean cross-entropy of `batch` images, after what the client does to it first: clipping to a
norm, Gaussian noise, and keeping only its largest entries.
"""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from robustbench_jax.registry import register
from robustbench_jax.types import UserError, record, static


@register("budget", "gradients", threat="gradient_inversion")
@record
class Gradients:
    """batch: images in one gradient. clip: its largest norm, 0 for none. noise: standard deviation of what is added to
    each entry. keep: share of the entries, the largest ones, that are sent at all.
    """

    batch: int = static()
    clip: float = 0.0
    noise: float = 0.0
    keep: float = 1.0

    def __post_init__(self):
        if self.batch < 1:
            raise UserError(f"gradients: batch = {self.batch} must be at least 1")
        for name in ("clip", "noise"):
            value = getattr(self, name)
            if isinstance(value, int | float) and value < 0:
                raise UserError(f"gradients: {name} = {value} must be at least 0")
        if isinstance(self.keep, int | float) and not 0 < self.keep <= 1:
            raise UserError(f"gradients: keep = {self.keep} must be above 0 and at most 1")

    def shared(self, key: jax.Array, gradient: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """What is sent of a gradient."""
        flat, rebuild = ravel_pytree(gradient)
        size = jnp.linalg.norm(flat)
        flat = jnp.where(self.clip > 0, flat * jnp.minimum(1.0, self.clip / jnp.maximum(size, 1e-30)), flat)
        flat = flat + self.noise * jax.random.normal(key, flat.shape)
        least = jnp.sort(jnp.abs(flat))[jnp.int32(jnp.floor((1 - self.keep) * len(flat)))]
        return rebuild(jnp.where(jnp.abs(flat) >= least, flat, 0.0))
