"""An autoencoder: a small network from image to image.

Reference: MagNet, Meng & Chen, CCS 2017, arXiv:1705.09064, whose smaller autoencoder has this shape: two hidden
convolutions of 3x3 at full size, and one back to the image. Departs from the paper: ReLU between them and more
channels, where that has sigmoids and 3 channels, because it learns in fewer steps.
Shapes: [..., H, W, C]; any leading dims.
"""

import jax
from flax import nnx

from robustbench_jax.models.blocks import Conv, flatten, require_image
from robustbench_jax.models.net import Net
from robustbench_jax.types import Classifier


class Autoencoder(nnx.Module):
    """width: channels of the hidden layers. What comes out is flat, [..., H W C], and lies in [0, 1]."""

    def __init__(self, width: int, *, shape: tuple[int, ...], rngs: nnx.Rngs):
        require_image("an autoencoder", shape, 1)
        self.hidden = nnx.List([Conv(ins, width, 3, rngs=rngs) for ins in (shape[-1], width)])
        self.head = Conv(width, shape[-1], 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.hidden:
            x = jax.nn.relu(layer(x))
        return flatten(jax.nn.sigmoid(self.head(x)))


def build_autoencoder(width: int, shape: tuple[int, ...], key: jax.Array) -> Classifier:
    """One with fresh weights for images [H, W, C]; its answer to an image are H W C pixels. The key is consumed."""
    return Classifier(*Net.split(Autoencoder(width, shape=tuple(shape), rngs=nnx.Rngs(key))))
