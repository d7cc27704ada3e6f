"""Colours of images with three channels, and what stands for them where there is one.

Shapes: H height, W width, C channels. One image [H, W, C] in [0, 1].
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def luminance(x: jax.Array) -> jax.Array:
    """[H, W, 1]: the weighted sum of red, green and blue; the mean of any other number of channels."""
    if x.shape[-1] != 3:
        return jnp.mean(x, -1, keepdims=True)
    return jnp.sum(x * LUMA, -1, keepdims=True)


def tint(rgb: Any, channels: int) -> jax.Array:
    """A colour [..., 3] for images of so many channels: itself for three, its luminance otherwise."""
    rgb = jnp.asarray(rgb, jnp.float32)
    return rgb if channels == 3 else jnp.sum(rgb * LUMA, -1, keepdims=True)


def brighten(x: jax.Array, amount: Any) -> jax.Array:
    """Adds to the value of HSV, the largest channel, and clips it; hue and saturation stay."""
    value = jnp.max(x, -1, keepdims=True)
    brighter = jnp.clip(value + amount, 0.0, 1.0)
    return jnp.where(value > 0, x * (brighter / jnp.where(value > 0, value, 1.0)), brighter)


def saturate(x: jax.Array, factor: Any, amount: Any) -> jax.Array:
    """Multiplies the saturation of HSV, adds to it and clips it; hue and value stay. Other than RGB stays as it is.

    A grey pixel has no hue: red is taken, as scikit-image takes it.
    """
    if x.shape[-1] != 3:
        return x
    value = jnp.max(x, -1, keepdims=True)
    spread = value - jnp.min(x, -1, keepdims=True)
    saturation = spread / jnp.where(value > 0, value, 1.0)
    away = jnp.where(spread > 0, (value - x) / jnp.where(spread > 0, spread, 1.0), np.array([0.0, 1.0, 1.0]))
    return value - value * jnp.clip(saturation * factor + amount, 0.0, 1.0) * away
