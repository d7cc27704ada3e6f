"""A variational autoencoder: from an image to a code of normal distribution, from a code to an image.

Reference: Kingma & Welling, ICLR 2014, arXiv:1312.6114, whose dense networks have this shape: one hidden layer either
way, images as probabilities of Bernoulli pixels. Departs from the paper: ReLU for tanh.
Shapes: Z entries of a code; images [..., H, W, C], any leading dims.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from robustbench_jax.models.blocks import Dense, flatten, require_image
from robustbench_jax.models.net import Net
from robustbench_jax.types import Classifier


class Variational(nnx.Module):
    """What it answers to an image is its code: Z means and Z logarithms of variances, [..., 2 Z]."""

    def __init__(self, codes: int, width: int, *, shape: tuple[int, ...], rngs: nnx.Rngs):
        require_image("a variational autoencoder", shape, 1)
        pixels = math.prod(shape)
        self.seen = Dense(pixels, width, rngs=rngs)
        self.head = Dense(width, 2 * codes, last=True, rngs=rngs)
        self.drawn = Dense(codes, width, rngs=rngs)
        self.pixels = Dense(width, pixels, last=True, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(jax.nn.relu(self.seen(flatten(x))))

    def logits(self, z: jax.Array) -> jax.Array:
        """The image of a code [..., Z], flat: the logit of each pixel [..., H W C]."""
        return self.pixels(jax.nn.relu(self.drawn(z)))


def build_variational(codes: int, width: int, shape: tuple[int, ...], key: jax.Array) -> Classifier:
    """One with fresh weights for images [H, W, C]. The key is consumed."""
    return Classifier(*Net.split(Variational(codes, width, shape=tuple(shape), rngs=nnx.Rngs(key))))


def pixel_logits(model: Classifier, z: jax.Array) -> jax.Array:
    """The flat image of codes [..., Z], before it is made to lie in [0, 1]."""
    return model.net.module(model.params).logits(z)


def decode(model: Classifier, z: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Images [..., H, W, C] in [0, 1] of codes [..., Z]."""
    return jax.nn.sigmoid(pixel_logits(model, z)).reshape(*z.shape[:-1], *shape)


def divergence(code: jax.Array) -> jax.Array:
    """KL divergence of the distributions of codes [..., 2 Z] from the standard normal one, in nats [...]."""
    mean, logarithm = jnp.split(code, 2, axis=-1)
    return jnp.sum(jnp.exp(logarithm) + mean**2 - 1 - logarithm, -1) / 2
