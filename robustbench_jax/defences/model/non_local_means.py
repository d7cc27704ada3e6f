"""non_local_means(strength): each pixel becomes the mean of those near it that have a similar neighbourhood.

References: Buades, Coll & Morel, CVPR 2005; as a defence feature squeezing, Xu et al., NDSS 2018, arXiv:1704.01155,
which has search = 11, patch = 3, strength = 4 for ImageNet and 13, 3, 2 for CIFAR-10.
A pixel q counts for p with exp(-d / strength^2), d the mean squared difference, in levels of 1/255, of the patches
around p and q over all channels; the border is mirrored. This is OpenCV's fastNlMeansDenoising.
Departs from the paper: colours are compared as they are, where OpenCV's variant for colour images treats brightness
and the two colours of CIELAB apart; weights are not rounded, nor are those below 0.001 left out.
Shapes: H height, W width, C channels. One image.
"""

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.defences.model.preprocessing import Preprocessing
from robustbench_jax.registry import register
from robustbench_jax.types import UserError, record, require_positive, static


@register("model_defence", "non_local_means", paper="xu2018")
@record
class NonLocalMeans(Preprocessing):
    """strength: in levels of 1/255. search, patch: the sides of the window that is searched and of what is compared,
    odd numbers of pixels.
    """

    strength: float = 4.0
    search: int = static(default=11)
    patch: int = static(default=3)

    def __post_init__(self):
        require_positive("non_local_means", strength=self.strength)
        for name, value in (("search", self.search), ("patch", self.patch)):
            if value < 1 or value % 2 == 0:
                raise UserError(f"non_local_means: {name} = {value} must be odd; the nearest is {max(1, value + 1)}")

    def transform(self, key: jax.Array | None, x: jax.Array) -> jax.Array:
        reach, half = self.search // 2, self.patch // 2
        wide = _mirrored(x, reach + half)
        own = _mirrored(x, half)
        steps = np.stack(np.meshgrid(*2 * [np.arange(self.search)], indexing="ij"), -1).reshape(-1, 2)

        @jax.checkpoint
        def add(sums, step):
            near = jax.lax.dynamic_slice(wide, (*step, 0), own.shape)
            distances = self._patches(jnp.mean((255.0 * (own - near)) ** 2, axis=-1))
            weight = jnp.exp(-distances / self.strength**2)[..., None]
            middle = near[half : half + x.shape[0], half : half + x.shape[1]]
            return (sums[0] + weight * middle, sums[1] + weight), None

        nothing = jnp.zeros_like(x), jnp.zeros((*x.shape[:2], 1))
        (total, weights), _ = jax.lax.scan(add, nothing, steps)
        return jnp.clip(total / weights, 0.0, 1.0)

    def _patches(self, values: jax.Array) -> jax.Array:
        """Means of values [H + patch - 1, W + patch - 1] over patches [H, W]."""
        height, width = (side - self.patch + 1 for side in values.shape)
        rows = sum(values[i : i + height] for i in range(self.patch))
        return sum(rows[:, j : j + width] for j in range(self.patch)) / self.patch**2


def _mirrored(x: jax.Array, by: int) -> jax.Array:
    """x [H, W, C] with `by` more pixels on every side, the outermost of its own not repeated."""
    rows, columns = (np.pad(np.arange(n), by, mode="reflect" if n > 1 else "edge") for n in x.shape[:2])
    return x[rows][:, columns]
