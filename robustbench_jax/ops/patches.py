"""patch(height, width): anything at all within a rectangle of the image, anywhere in it.

Reference: Brown et al., 2017, arXiv:1712.09665.
Shapes: H, W, C image; h, w patch; Z = h * w * C + 3. One example, float32; x in the box.
A point z holds the patch's pixels in [0, 1], then three numbers in [0, 1]: how far down and how far to the right of the
room that there is it lies, and its scale, from the smallest (0) to h x w (1). A smaller patch shows the nearest pixels
of z.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.registry import register
from robustbench_jax.types import UserError, record, static

EXACT = jax.lax.Precision.HIGHEST


@register("budget", "patch", paper="brown2017")
@record
class Patch:
    """height, width: in pixels. smallest: the least scale that a patch may be shown at, 1 for none below h x w."""

    height: int = static()
    width: int = static()
    smallest: float = 1.0

    def __post_init__(self):
        for name in ("height", "width"):
            if getattr(self, name) < 1:
                raise UserError(
                    f"patch: {name} = {getattr(self, name)} must be at least 1 pixel; write e.g. patch(5, 5)"
                )
        if isinstance(self.smallest, float) and not 0 < self.smallest <= 1:
            raise UserError(f"patch: smallest = {self.smallest} must be above 0 and at most 1")

    def identity(self, x: jax.Array) -> jax.Array:
        """The image's own pixels in its upper left corner."""
        self._require_room(x)
        return join(x[: self.height, : self.width], jnp.array([0.0, 0.0, 1.0]))

    def render(self, x: jax.Array, z: jax.Array) -> jax.Array:
        """The image with the patch over it, [H, W, C]; a pixel of it is a pixel of z, whole."""
        patch, place = self.split(x, z)
        rows, columns = self._lines(x, place)
        shown = jnp.einsum("ia,jb,abc->ijc", rows, columns, patch, precision=EXACT)
        return jnp.where(self.area(x, z)[..., None], shown, x)

    def area(self, x: jax.Array, z: jax.Array) -> jax.Array:
        """Where the patch lies, bool [H, W]."""
        rows, columns = self._lines(x, self.split(x, z)[1])
        return (jnp.max(rows, 1)[:, None] * jnp.max(columns, 1)) > 0

    def split(self, x: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The pixels [h, w, C], and place and scale [3]."""
        return z[:-3].reshape(self.height, self.width, x.shape[-1]), z[-3:]

    def project(self, x: jax.Array, z: jax.Array) -> jax.Array:
        return jnp.clip(z, 0.0, 1.0)

    def size(self, delta: jax.Array) -> jax.Array:
        """The patch's area in pixels at full scale; 0 where nothing changed."""
        return jnp.where(jnp.any(delta != 0), float(self.height * self.width), 0.0)

    def sample(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """Uniform pixels at a uniform place and scale."""
        return jax.random.uniform(key, self.identity(x).shape)

    def steepest(self, g: jax.Array) -> jax.Array:
        """Signs; place and scale stay."""
        return jnp.sign(g).at[-3:].set(0.0)

    def along(self, x: jax.Array, z: jax.Array, g: jax.Array, fraction: float | jax.Array) -> jax.Array:
        """Each pixel moved by a fraction of its whole range."""
        return self.project(x, z + fraction * self.steepest(g))

    def _lines(self, x: jax.Array, place: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Which line of the patch each line of the image shows, one-hot [H, h] and [W, w]."""
        scale = self.smallest + (1.0 - self.smallest) * place[2]
        return tuple(
            _one_hot(whole, side, scale, place[axis])
            for axis, (whole, side) in enumerate(zip(x.shape, (self.height, self.width), strict=False))
        )

    def _require_room(self, x: jax.Array) -> None:
        if self.height > x.shape[0] or self.width > x.shape[1]:
            raise UserError(f"patch({self.height}, {self.width}) is larger than the image, {x.shape[0]} x {x.shape[1]}")


def join(pixels: jax.Array, place: jax.Array) -> jax.Array:
    """A point from the pixels [h, w, C] and place and scale [3]."""
    return jnp.concatenate([pixels.ravel(), place])


def _one_hot(whole: int, side: int, scale: jax.Array, place: jax.Array) -> jax.Array:
    shown = jnp.maximum(jnp.round(scale * side), 1.0)
    start = jnp.floor(jnp.minimum(place * (whole - shown + 1), whole - shown))
    line = jnp.floor((jnp.arange(whole) - start + 0.5) * side / shown)
    return (line[:, None] == jnp.arange(side)).astype(jnp.float32)
