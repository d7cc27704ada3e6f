"""rotation_translation(degrees, pixels): the image turned about its centre and moved.

Reference: Engstrom et al., ICML 2019, arXiv:1712.02779 (30 degrees and 3 of 28 or 32 pixels on MNIST and CIFAR-10).
Shapes: H, W, C image; Z = 3. One example, float32; x in the box.
A point z = (turn, down, right) in [-1, 1]^3 is counted in the largest turn and the largest shift; what comes from
beyond the edge is black; bilinear.
"""

import math

import jax
import jax.numpy as jnp

from robustbench_jax.ops.warp import bilinear
from robustbench_jax.registry import register
from robustbench_jax.types import UserError, record


@register("budget", "rotation_translation", paper="engstrom2019")
@record
class RotationTranslation:
    """degrees: the largest turn either way, anticlockwise positive. pixels: the largest shift along each axis."""

    degrees: float = 30.0
    pixels: float = 3.0

    def __post_init__(self):
        for name in ("degrees", "pixels"):
            value = getattr(self, name)
            if isinstance(value, int | float) and not 0 <= value < math.inf:
                raise UserError(f"rotation_translation: {name} = {value} must be a finite number of at least 0")

    def identity(self, x: jax.Array) -> jax.Array:
        return jnp.zeros(3)

    def render(self, x: jax.Array, z: jax.Array) -> jax.Array:
        """First turned, then moved, [H, W, C]; x itself for z = 0."""
        turn, down, right = z * jnp.array([math.pi / 180, 1.0, 1.0]) * self._limits()
        middle = (jnp.array(x.shape[:2]) - 1) / 2
        rows, columns = jnp.meshgrid(*(jnp.arange(side, dtype=jnp.float32) for side in x.shape[:2]), indexing="ij")
        rows, columns = rows - middle[0] - down, columns - middle[1] - right
        cosine, sine = jnp.cos(turn), jnp.sin(turn)
        moved = bilinear(
            x,
            cosine * rows + sine * columns + middle[0],
            cosine * columns - sine * rows + middle[1],
            outside="black",
        )
        return jnp.clip(moved, 0.0, 1.0)

    def project(self, x: jax.Array, z: jax.Array) -> jax.Array:
        return jnp.clip(z, -1.0, 1.0)

    def size(self, delta: jax.Array) -> jax.Array:
        """The largest of turn and shifts, each as a share of what is allowed."""
        return jnp.max(jnp.abs(delta))

    def sample(self, key: jax.Array, x: jax.Array) -> jax.Array:
        return jax.random.uniform(key, (3,), minval=-1.0, maxval=1.0)

    def steepest(self, g: jax.Array) -> jax.Array:
        return jnp.sign(g)

    def along(self, x: jax.Array, z: jax.Array, g: jax.Array, fraction: float | jax.Array) -> jax.Array:
        """Turn and shifts each moved by a fraction of what is allowed."""
        return self.project(x, z + fraction * self.steepest(g))

    def _limits(self) -> jax.Array:
        return jnp.stack([jnp.asarray(v, jnp.float32) for v in (self.degrees, self.pixels, self.pixels)])
