"""thermometer(model): each value of the image becomes a row of zeros and ones, as many as it has levels.

Reference: thermometer encoding, Buckman et al., ICLR 2018 (no arXiv number; OpenReview S18Su--CW). Of `levels` values
in place of x the l-th, from 1 on, is 1 where x <= l / levels. The network behind it has to be trained with it.
That it hides gradients, and how they pass it: Athalye, Carlini & Wagner, ICML 2018, arXiv:1802.00420. Its derivative is
zero; straight through rounding, bpda(..., backward="rounding"), it is -levels in the one value whose step is next below
x, which is also what adversarial training of it needs.
Shapes: H height, W width, C channels; any leading dimensions.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from robustbench_jax.models.blocks import require_image
from robustbench_jax.registry import register
from robustbench_jax.types import UserError


@register(
    "model",
    "thermometer",
    paper="buckman2018",
    parts={"model": "model"},
    given=("shape", "classes", "rngs"),
    obfuscates=True,
)
class Thermometer(nnx.Module):
    """model: the architecture behind it, which takes images of C * levels channels; levels: 16 in the paper."""

    def __init__(self, model: Any = "cnn", levels: int = 16, *, shape, classes, rngs):
        require_image("thermometer", shape, 1)
        if levels < 2:
            raise UserError(f"thermometer: levels = {levels} must be at least 2")
        self.levels = levels
        self.model = model(shape=(*shape[:2], shape[2] * levels), classes=classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.model(encoded(x, self.levels))


def encoded(x: jax.Array, levels: int) -> jax.Array:
    """Codes [..., H, W, C * levels] of x [..., H, W, C] in [0, 1], those of a channel side by side."""
    steps = np.arange(1, levels + 1, dtype=np.float32)
    codes = jnp.floor(jnp.clip(steps + 1 - levels * x[..., None], 0.0, 1.0))
    return codes.reshape(*x.shape[:-1], x.shape[-1] * levels)
