"""recolour(eps): one function of the colour, the same for all pixels, that moves no colour by more than eps.

Reference: ReColorAdv, Laidlaw & Feizi, NeurIPS 2019, arXiv:1906.00001 (a grid over the colours, multilinear between its
points; the smoothness that the paper rewards is here the grid's coarseness).
Shapes: H, W, C image; R grid points along each channel. One example, float32; x in the box.
A point z [R, ..., R, C] is what is added to the colours at the grid's points. Departs from the paper: RGB or grey
instead of CIE L*u*v*.
"""

import itertools
import math

import jax
import jax.numpy as jnp

from robustbench_jax.registry import register
from robustbench_jax.types import UserError, record, static


@register("budget", "recolour", paper="laidlaw2019")
@record
class Recolour:
    """eps: the largest change of a channel. resolution: grid points along each channel."""

    eps: float = 0.1
    resolution: int = static(default=16)

    def __post_init__(self):
        if isinstance(self.eps, int | float) and not 0 <= self.eps < math.inf:
            raise UserError(
                f"recolour: eps = {self.eps} must be a finite number of at least 0; write e.g. recolour(0.1)"
            )
        if self.resolution < 2:
            raise UserError(f"recolour: resolution = {self.resolution} must be at least 2 points")

    def identity(self, x: jax.Array) -> jax.Array:
        return jnp.zeros((self.resolution,) * x.shape[-1] + x.shape[-1:])

    def render(self, x: jax.Array, z: jax.Array) -> jax.Array:
        """[H, W, C], cut by the box; x itself for z = 0."""
        at = x * (self.resolution - 1)
        below = jnp.clip(jnp.floor(at), 0, self.resolution - 2)
        above = at - below
        change = 0.0
        for corner in itertools.product((0, 1), repeat=x.shape[-1]):
            weights = jnp.prod(jnp.where(jnp.array(corner) == 1, above, 1 - above), axis=-1, keepdims=True)
            nodes = (below + jnp.array(corner)).astype(jnp.int32)
            change += weights * z[tuple(nodes[..., channel] for channel in range(x.shape[-1]))]
        return jnp.clip(x + change, 0.0, 1.0)

    def project(self, x: jax.Array, z: jax.Array) -> jax.Array:
        return jnp.clip(z, -self.eps, self.eps)

    def size(self, delta: jax.Array) -> jax.Array:
        """The largest change of a channel."""
        return jnp.max(jnp.abs(delta))

    def sample(self, key: jax.Array, x: jax.Array) -> jax.Array:
        return self.eps * jax.random.uniform(key, self.identity(x).shape, minval=-1.0, maxval=1.0)

    def steepest(self, g: jax.Array) -> jax.Array:
        return jnp.sign(g)

    def along(self, x: jax.Array, z: jax.Array, g: jax.Array, fraction: float | jax.Array) -> jax.Array:
        return self.project(x, z + fraction * self.eps * self.steepest(g))
