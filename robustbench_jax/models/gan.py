"""A generator and a discriminator of dense layers, for images that are generated.

References: Goodfellow et al., NeurIPS 2014, arXiv:1406.2661; a discriminator that tells classes apart as well, and the
generator that is trained to match its features: Salimans et al., NeurIPS 2016, arXiv:1606.03498.
Shapes: Z entries of a code, K classes, F features; images [..., H, W, C], any leading dims.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from robustbench_jax.models.blocks import Dense, flatten, require_image
from robustbench_jax.models.net import Net
from robustbench_jax.types import Classifier


class Generator(nnx.Module):
    """What it answers to a code [..., Z] is an image."""

    def __init__(self, codes: int, width: int, *, shape: tuple[int, ...], rngs: nnx.Rngs):
        require_image("a generator", shape, 1)
        self.shape = tuple(shape)
        self.hidden = nnx.List([Dense(ins, width, rngs=rngs) for ins in (codes, width)])
        self.head = Dense(width, math.prod(shape), last=True, rngs=rngs)

    def __call__(self, z: jax.Array) -> jax.Array:
        for layer in self.hidden:
            z = jax.nn.relu(layer(z))
        return jax.nn.sigmoid(self.head(z)).reshape(*z.shape[:-1], *self.shape)


class Discriminator(nnx.Module):
    """What it answers to an image are K logits; that of an image that was generated is 0."""

    def __init__(self, classes: int, width: int, *, shape: tuple[int, ...], rngs: nnx.Rngs):
        self.hidden = nnx.List([Dense(ins, width, rngs=rngs) for ins in (math.prod(shape), width)])
        self.head = Dense(width, classes, last=True, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.features(x))

    def features(self, x: jax.Array) -> jax.Array:
        """[..., F]."""
        x = flatten(x)
        for layer in self.hidden:
            x = jax.nn.leaky_relu(layer(x), 0.2)
        return x


def build_gan(
    codes: int, classes: int, width: int, shape: tuple[int, ...], key: jax.Array
) -> tuple[Classifier, Classifier]:
    """(generator, discriminator) with fresh weights for images [H, W, C]. The key is consumed."""
    first, second = (nnx.Rngs(each) for each in jax.random.split(key))
    generator = Generator(codes, width, shape=tuple(shape), rngs=first)
    discriminator = Discriminator(classes, width, shape=tuple(shape), rngs=second)
    return Classifier(*Net.split(generator)), Classifier(*Net.split(discriminator))


def is_real(logits: jax.Array) -> jax.Array:
    """log of the odds [...] that an image is none that was generated, of the discriminator's logits [..., K]."""
    return jax.nn.logsumexp(logits, axis=-1)


def seen(discriminator: Classifier, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(features [..., F], logits [..., K]) of images."""
    module = discriminator.net.module(discriminator.params)
    features = module.features(x)
    return features, module.head(features)


def entropy(logits: jax.Array) -> jax.Array:
    """Of the classes' shares, in nats [...]."""
    shares = jax.nn.log_softmax(logits)
    return -jnp.sum(jnp.exp(shares) * shares, -1)
