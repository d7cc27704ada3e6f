"""median_filter(window): each pixel becomes the median of those around it, channel by channel.

Reference: feature squeezing, Xu et al., NDSS 2018, arXiv:1704.01155, whose windows are 2 and 3: the pixel is at the
lower right of the middle of an even window, of whose values the larger one in the middle is taken; the border is
mirrored. This is what SciPy's median_filter does. Its derivative is 1 for the pixel that is the median.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.defences.model.preprocessing import Preprocessing
from robustbench_jax.registry import register
from robustbench_jax.types import UserError, record, static


@register("model_defence", "median_filter", paper="xu2018")
@record
class MedianFilter(Preprocessing):
    """window: its side, in pixels."""

    window: int = static(default=2)

    def __post_init__(self):
        if self.window < 2:
            raise UserError(f"median_filter: window = {self.window} must be at least 2")

    def transform(self, key: jax.Array | None, x: jax.Array) -> jax.Array:
        before, (height, width) = self.window // 2, x.shape[:2]
        pads = (before, self.window - 1 - before)
        padded = jnp.pad(x, (pads, pads, (0, 0)), mode="symmetric")
        places = [(i, j) for i in range(self.window) for j in range(self.window)]
        around = jnp.stack([padded[i : i + height, j : j + width] for i, j in places])
        return jnp.sort(around, axis=0)[self.window**2 // 2]
