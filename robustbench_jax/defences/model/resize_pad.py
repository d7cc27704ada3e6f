"""resize_pad(smallest): the image at a random smaller size, at a random place on a black ground.

Reference: random resizing and padding, Xie et al., ICLR 2018, arXiv:1711.01991: images of 299 pixels get a side drawn
from 299 to 330, with the nearest pixel, and a place within 331 pixels.
Departs from the paper: what comes out is as large as what went in, since most networks take one size alone; the
proportion of the sizes, 299 to 331, is kept. On small images few sizes are left: 25 to 27 of 28, 29 to 31 of 32.
Shapes: H height, W width, C channels. One image.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.defences.model.preprocessing import Preprocessing
from robustbench_jax.registry import register
from robustbench_jax.types import UserError, record


@register("model_defence", "resize_pad", paper="xie2018")
@record
class ResizePad(Preprocessing):
    """smallest: side that may be drawn, as a fraction of the image's; the largest is one pixel less than that."""

    smallest: float = 299 / 331
    stochastic = True

    def __post_init__(self):
        if isinstance(self.smallest, int | float) and not 0 < self.smallest <= 1:
            raise UserError(f"resize_pad: smallest = {self.smallest} must be above 0 and at most 1")

    def transform(self, key: jax.Array, x: jax.Array) -> jax.Array:
        of_size, of_top, of_left = jax.random.split(key, 3)
        height, width = x.shape[:2]
        least = jnp.clip(jnp.floor(self.smallest * height + 0.5).astype(jnp.int32), 1, height)
        high = jax.random.randint(of_size, (), least, jnp.maximum(least + 1, height))
        wide = jnp.maximum(1, (2 * high * width + height) // (2 * height))
        rows, row_inside = _read(of_top, height, high)
        columns, column_inside = _read(of_left, width, wide)
        inside = row_inside[:, None] & column_inside
        return jnp.where(inside[..., None], x[rows][:, columns], 0.0)


def _read(key: jax.Array, side: int, size: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Which pixel is shown at each of `side` places, and whether one is, where `size` pixels show them all."""
    place = jnp.arange(side) - jax.random.randint(key, (), 0, side - size + 1)
    return jnp.clip(place * side // size, 0, side - 1), (place >= 0) & (place < size)
