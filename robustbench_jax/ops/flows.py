"""flow(eps): every pixel taken from a place at most eps pixels away along each axis.

Reference: stAdv, Xiao et al., ICLR 2018, arXiv:1801.02612, whose smoothness is here a bound and a grid: displacements
are given at every `spacing`-th pixel and bilinear in between.
Shapes: H, W, C image; G, G' the grid. One example, float32; x in the box.
A point z [G, G', 2] is the displacement (down, right) in pixels; beyond the edge lies the nearest pixel.
"""

import math

import jax
import jax.numpy as jnp

from robustbench_jax.ops.warp import bilinear
from robustbench_jax.registry import register
from robustbench_jax.types import UserError, record, static


@register("budget", "flow", paper="xiao2018")
@record
class Flow:
    """eps: the largest displacement along an axis, in pixels. spacing: pixels between two grid points; 1 is stAdv's
    free flow.
    """

    eps: float = 1.0
    spacing: int = static(default=4)

    def __post_init__(self):
        if isinstance(self.eps, int | float) and not 0 <= self.eps < math.inf:
            raise UserError(
                f"flow: eps = {self.eps} must be a finite number of pixels, at least 0; write e.g. flow(1.0)"
            )
        if self.spacing < 1:
            raise UserError(f"flow: spacing = {self.spacing} must be at least 1 pixel")

    def identity(self, x: jax.Array) -> jax.Array:
        return jnp.zeros((*(1 + math.ceil((side - 1) / self.spacing) for side in x.shape[:2]), 2))

    def render(self, x: jax.Array, z: jax.Array) -> jax.Array:
        """[H, W, C]; x itself for z = 0."""
        rows, columns = jnp.meshgrid(*(jnp.arange(side, dtype=jnp.float32) for side in x.shape[:2]), indexing="ij")
        moved = self.displacement(x, z)
        return jnp.clip(bilinear(x, rows + moved[..., 0], columns + moved[..., 1], outside="edge"), 0.0, 1.0)

    def displacement(self, x: jax.Array, z: jax.Array) -> jax.Array:
        """Of every pixel, [H, W, 2]."""
        rows, columns = (_hats(x.shape[axis], z.shape[axis], self.spacing) for axis in (0, 1))
        return jnp.einsum("ia,jb,abc->ijc", rows, columns, z, precision=jax.lax.Precision.HIGHEST)

    def project(self, x: jax.Array, z: jax.Array) -> jax.Array:
        return jnp.clip(z, -self.eps, self.eps)

    def size(self, delta: jax.Array) -> jax.Array:
        """The largest displacement along an axis, in pixels."""
        return jnp.max(jnp.abs(delta))

    def sample(self, key: jax.Array, x: jax.Array) -> jax.Array:
        return self.eps * jax.random.uniform(key, self.identity(x).shape, minval=-1.0, maxval=1.0)

    def steepest(self, g: jax.Array) -> jax.Array:
        return jnp.sign(g)

    def along(self, x: jax.Array, z: jax.Array, g: jax.Array, fraction: float | jax.Array) -> jax.Array:
        return self.project(x, z + fraction * self.eps * self.steepest(g))


def _hats(side: int, points: int, spacing: int) -> jax.Array:
    """[side, points]: the bilinear weights of the grid's lines at every pixel."""
    return jnp.maximum(1 - jnp.abs(jnp.arange(side)[:, None] / spacing - jnp.arange(points)), 0.0)
