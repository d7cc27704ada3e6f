"""scattering(model): a network behind wavelets that nobody trains.

Reference: Tramer & Boneh, ICLR 2021, arXiv:2011.11660, where linear models of such features (ops/wavelets.py) are
better under private training than convolutions that begin from nothing. `groups` of channels are each normalised by
their own mean and variance, image by image, which costs no privacy; the other normalisation of the paper, by noisy
statistics of the training images, is left out.
Shapes: H height, W width, C channels, K paths; any leading dimensions.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from robustbench_jax.models.blocks import require_image
from robustbench_jax.ops.wavelets import paths, scattered
from robustbench_jax.registry import register
from robustbench_jax.types import UserError, require_positive

EPSILON = 1e-5


@register("model", "scattering", paper="tramer2021", parts={"model": "model"}, given=("shape", "classes", "rngs"))
class Scattering(nnx.Module):
    """model: what takes the features, images of [H / 2^scales, W / 2^scales, C K]; a linear one in the paper. groups:
    of channels, 0 for none; they must divide C K.
    """

    def __init__(
        self,
        model: Any = "mlp([])",
        scales: int = 2,
        angles: int = 8,
        groups: int = 27,
        *,
        shape,
        classes,
        rngs,
    ):
        require_positive("scattering", scales=scales, angles=angles)
        require_image("scattering", shape, 2 ** (scales + 1))
        self.scales, self.angles, self.groups = scales, angles, groups
        channels = shape[-1] * paths(scales, angles)
        if groups < 0 or (groups and channels % groups):
            fits = [n for n in range(1, channels + 1) if channels % n == 0]
            near = min(fits, key=lambda n: abs(n - groups))
            raise UserError(
                f"scattering: groups = {groups} must divide {channels} channels; the nearest that does is {near}"
            )
        sides = [side // 2**scales for side in shape[:2]]
        self.model = model(shape=(*sides, channels), classes=classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.model(self.front(x))

    def front(self, x: jax.Array) -> jax.Array:
        """What the model inside sees of images [..., H, W, C]; the same for ever."""
        features = scattered(x, self.scales, self.angles)
        return normalised(features, self.groups) if self.groups else features


def normalised(x: jax.Array, groups: int) -> jax.Array:
    """Of each image x [..., h, w, K], each of `groups` of channels that lie side by side: mean 0, variance 1."""
    parts, axes = x.reshape(*x.shape[:-1], groups, -1), (-4, -3, -1)
    mean, variance = parts.mean(axes, keepdims=True), parts.var(axes, keepdims=True)
    return ((parts - mean) / jnp.sqrt(variance + EPSILON)).reshape(x.shape)
