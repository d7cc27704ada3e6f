"""An encoder and decoder: a small network from image to image that sees more of the image than a few pixels.

Reference: the generators of Nguyen & Tran, NeurIPS 2020, arXiv:2010.08138. Departs from the paper: one convolution at
each of three sizes on the way down, one on the way up and one last; images of any size. What comes out is normalised
over the pixels of its own image, where theirs is over a batch: an answer depends on its image alone. Without it a mask
that is to be small ends up empty.
Shapes: [..., H, W, C]; any leading dims.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from robustbench_jax.models.blocks import Conv, require_image
from robustbench_jax.models.net import Net
from robustbench_jax.types import Classifier

LEAST = 4  # pixels on a side
TINY = 1e-5


class EncoderDecoder(nnx.Module):
    """width: channels at full size, twice as many at half and at quarter size; outs: channels of what comes out, whose
    mean and spread over an image are learned.
    """

    def __init__(self, width: int, outs: int, *, shape: tuple[int, ...], rngs: nnx.Rngs):
        require_image("an encoder and decoder", shape, LEAST)
        self.down = nnx.List([Conv(shape[-1], width, 3, rngs=rngs), Conv(width, 2 * width, 3, rngs=rngs)])
        self.middle = Conv(2 * width, 2 * width, 3, rngs=rngs)
        self.up = Conv(2 * width, width, 3, rngs=rngs)
        self.head = Conv(width, outs, 3, bias=False, rngs=rngs)
        self.spread, self.mean = nnx.Param(jnp.ones(outs)), nnx.Param(jnp.zeros(outs))

    def __call__(self, x: jax.Array) -> jax.Array:
        sizes = []
        for layer in self.down:
            x = jax.nn.relu(layer(x))
            sizes.append(x.shape[-3:-1])
            x = nnx.max_pool(x, (2, 2), strides=(2, 2), padding="SAME")
        x = jax.nn.relu(self.middle(x))
        x = jax.nn.relu(self.up(enlarged(x, sizes[1])))
        x = self.head(enlarged(x, sizes[0]))
        over = {"axis": (-3, -2), "keepdims": True}
        x = (x - jnp.mean(x, **over)) / jnp.sqrt(jnp.var(x, **over) + TINY)
        return x * self.spread[...] + self.mean[...]


def enlarged(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """[..., H, W, C] of another size; pixels are repeated."""
    return jax.image.resize(x, (*x.shape[:-3], *size, x.shape[-1]), "nearest")


def build_encoder_decoder(width: int, outs: int, shape: tuple[int, ...], key: jax.Array) -> Classifier:
    """One with fresh weights for images [H, W, C]; its answer to an image is [H, W, outs]. The key is consumed."""
    return Classifier(*Net.split(EncoderDecoder(width, outs, shape=tuple(shape), rngs=nnx.Rngs(key))))
