"""The pieces that architectures are made of. Images are [..., H, W, C]; any leading dims."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from robustbench_jax.ops import layers
from robustbench_jax.types import UserError


class Constant(nnx.Variable):
    """An array that belongs to the model and is not trained."""


class Normalise(nnx.Module):
    """(x - mean) / std by channel; no change unless imported weights say so."""

    def __init__(self, channels: int):
        self.mean, self.std = Constant(jnp.zeros(channels)), Constant(jnp.ones(channels))

    def __call__(self, x: jax.Array) -> jax.Array:
        """UserError for images of other channels, of which broadcasting would make some that nobody gave."""
        mean, std = self.mean[...], self.std[...]
        if x.shape[-1] != len(mean):
            raise UserError(f"the model takes images of {len(mean)} channels, not of {x.shape[-1]}")
        return (x - mean) / std


class Conv(nnx.Module):
    """A square convolution, He-initialised over its outputs (He et al., 2015, arXiv:1502.01852)."""

    def __init__(
        self, ins: int, outs: int, window: int, *, stride: int = 1, padding="SAME", bias: bool = True, rngs: nnx.Rngs
    ):
        self.stride, self.padding = stride, padding
        scale = math.sqrt(2 / (window * window * ins))
        self.kernel = nnx.Param(scale * jax.random.normal(rngs.params(), (window, window, ins, outs)))
        self.bias = nnx.Param(jnp.zeros(outs)) if bias else None

    def __call__(self, x: jax.Array) -> jax.Array:
        out = layers.conv(x, self.kernel[...], stride=self.stride, padding=self.padding)
        return out if self.bias is None else out + self.bias[...]


class Dense(nnx.Module):
    """x @ kernel + bias; He-initialised, or small for a last layer."""

    def __init__(self, ins: int, outs: int, *, last: bool = False, rngs: nnx.Rngs):
        scale = math.sqrt((1 if last else 2) / ins)
        self.kernel = nnx.Param(scale * jax.random.normal(rngs.params(), (ins, outs)))
        self.bias = nnx.Param(jnp.zeros(outs))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.kernel[...] + self.bias[...]


def batch_norm(channels: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    """Batch norm with the momentum and epsilon that published PyTorch weights assume."""
    return nnx.BatchNorm(channels, momentum=0.9, epsilon=1e-5, rngs=rngs)


def flatten(x: jax.Array) -> jax.Array:
    """[..., H, W, C] -> [..., H W C]."""
    return x.reshape(*x.shape[:-3], -1)


def require_image(name: str, shape: tuple[int, ...], least: int) -> None:
    """UserError unless shape is [H, W, C] with both sides of at least `least`."""
    if len(shape) != 3 or min(shape[:2]) < least:
        raise UserError(f"{name} takes images [H, W, C] of at least {least}x{least}; got {list(shape)}")
