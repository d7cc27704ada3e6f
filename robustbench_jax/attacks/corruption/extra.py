"""Spatter and saturate, of the four extra corruptions (Gaussian blur is in blur.py, speckle noise in noise.py).

Reference: Hendrycks & Dietterich, ICLR 2019, arXiv:1903.12261; edges after Canny, IEEE TPAMI 8(6), 1986.
Departs from the paper: the distance to a rim is Euclidean, not OpenCV's 5x5 approximation. An image
with one channel has no saturation: saturate leaves it as it is, and water and mud take the luminance of their colours.
Shapes: H height, W width, C channels. Written for one image [H, W, C] in [0, 1].
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.attacks.corruption.corruption import Corruption, unit
from robustbench_jax.ops import colours
from robustbench_jax.ops.filters import convolve, gaussian
from robustbench_jax.registry import register
from robustbench_jax.types import record

WATER, MUD = np.array([175, 238, 238]) / 255, np.array([63, 42, 20]) / 255
FAR = 20  # pixels from the rim of a drop, from where on it is lit evenly
LIGHT = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]], np.float32)
BOX = np.full((3, 3), 1 / 9, np.float32)
WEAK, STRONG = 50, 150  # gradients of Canny's detector
FOLLOWED = 16  # pixels along which a weak edge is followed from a strong one


@register("attack", "spatter", threat="corruption", access="none", paper="hendrycks2019")
@record
class Spatter(Corruption):
    """Drops of water that catch the light (severities 1 to 3), splashes of mud (4 and 5).

    Parameters: mean and standard deviation of the noise that drops come from, the sigma that smooths it, the threshold
    above which it is a drop, the strength of the water or the sigma of the mud, and 1 for mud.
    """

    small = (
        (0.62, 0.1, 0.7, 0.7, 0.5, 0),
        (0.65, 0.1, 0.8, 0.7, 0.5, 0),
        (0.65, 0.3, 1, 0.69, 0.5, 0),
        (0.65, 0.1, 0.7, 0.69, 0.6, 1),
        (0.65, 0.1, 0.5, 0.68, 0.6, 1),
    )
    middle = (
        (0.62, 0.1, 0.7, 0.7, 0.6, 0),
        (0.65, 0.1, 0.8, 0.7, 0.6, 0),
        (0.65, 0.3, 1, 0.69, 0.6, 0),
        (0.65, 0.1, 0.7, 0.68, 0.6, 1),
        (0.65, 0.1, 0.5, 0.67, 0.6, 1),
    )
    large = (
        (0.65, 0.3, 4, 0.69, 0.6, 0),
        (0.65, 0.3, 3, 0.68, 0.6, 0),
        (0.65, 0.3, 2, 0.68, 0.5, 0),
        (0.65, 0.3, 1, 0.65, 1.5, 1),
        (0.67, 0.4, 1, 0.65, 1.5, 1),
    )

    def corrupt(self, key: jax.Array, x: jax.Array, severity: Any) -> jax.Array:
        mean, std, sigma, threshold, last, mud = self.chosen(x, severity)
        noise = mean + std * jax.random.normal(key, (*x.shape[:2], 1))
        liquid = gaussian(noise, sigma, most=float(self.table(x)[:, 2].max()))
        liquid = jnp.where(liquid > threshold, liquid, 0.0)
        muddy = gaussian((liquid > 0).astype(x.dtype), last, most=float(self.table(x)[:, 4].max()))
        muddy = jnp.where(muddy < 0.8, 0.0, muddy)
        with_mud = x * (1 - muddy) + muddy * colours.tint(MUD, x.shape[-1])
        with_water = x + last * _lit(liquid) * colours.tint(WATER, x.shape[-1])
        return unit(jnp.where(mud > 0, with_mud, with_water))


@register("attack", "saturate", threat="corruption", access="none", paper="hendrycks2019")
@record
class Saturate(Corruption):
    """The saturation of HSV is multiplied by the first parameter, and the second is added to it."""

    small = ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))
    middle = ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2))
    large = ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))

    def corrupt(self, key: jax.Array, x: jax.Array, severity: Any) -> jax.Array:
        return unit(colours.saturate(x, *self.chosen(x, severity)))


def _lit(liquid: jax.Array) -> jax.Array:
    """How bright the water is, [H, W, 1] from 0 to 1: embossed by the distance to the rims, whose levels are evened."""
    levels = jnp.floor(liquid * 255)
    depth = jnp.floor(convolve(_to_rim(_rims(levels[..., 0]))[..., None], jnp.asarray(BOX)) + 1e-3)
    embossed = jnp.clip(convolve(_evened(depth), jnp.asarray(LIGHT)), 0, 255)
    bright = levels * jnp.floor(convolve(embossed, jnp.asarray(BOX)) + 0.5)
    return bright / jnp.maximum(jnp.max(bright), 1.0)


def _rims(levels: jax.Array) -> jax.Array:
    """Canny's edges [H, W] of levels [H, W], as OpenCV finds them: ridges of Sobel gradients, weak beside strong."""
    around = _shifted(jnp.pad(levels, 1, mode="edge"))
    across = sum(weight * (around[i, 2] - around[i, 0]) for i, weight in enumerate((1, 2, 1)))
    down = sum(weight * (around[2, j] - around[0, j]) for j, weight in enumerate((1, 2, 1)))
    size = jnp.abs(across) + jnp.abs(down)
    near, tangent = _shifted(jnp.pad(size, 1)), np.float32(np.tan(np.pi / 8))
    flat = jnp.abs(down) < tangent * jnp.abs(across)
    steep = jnp.abs(down) > (tangent + 2) * jnp.abs(across)
    falling = jnp.where(across * down >= 0, jnp.maximum(near[0, 0], near[2, 2]), jnp.maximum(near[0, 2], near[2, 0]))
    ridge = jnp.where(flat, (size > near[1, 0]) & (size >= near[1, 2]), size > falling)
    ridge = jnp.where(steep & ~flat, (size > near[0, 1]) & (size >= near[2, 1]), ridge)

    def follow(_, found):
        beside = sum(part for part in _shifted(jnp.pad(found.astype(jnp.int32), 1)).values()) > 0
        return found | (ridge & (size > WEAK) & beside)

    return jax.lax.fori_loop(0, FOLLOWED, follow, ridge & (size > STRONG))


def _shifted(padded: jax.Array) -> dict[tuple[int, int], jax.Array]:
    """The nine neighbours [H, W] of each pixel, by row and column from 0 to 2, of an image [H + 2, W + 2]."""
    height, width = (n - 2 for n in padded.shape)
    return {(i, j): padded[i : i + height, j : j + width] for i in range(3) for j in range(3)}


def _to_rim(rims: jax.Array) -> jax.Array:
    """The distance [H, W] of each pixel from the nearest rim; at most FAR."""
    squared = jnp.where(rims, 0.0, float(FAR) ** 2)
    for axis in (0, 1):
        squared = _nearest(squared, axis)
    return jnp.sqrt(squared)


def _nearest(squared: jax.Array, axis: int) -> jax.Array:
    """The least, over the pixels of a line, of their value plus the square of the way to them."""
    width = [(FAR, FAR) if a == axis else (0, 0) for a in (0, 1)]
    padded = jnp.pad(squared, width, constant_values=float(FAR) ** 2)

    def look(i, least):
        seen = jax.lax.dynamic_slice_in_dim(padded, i, squared.shape[axis], axis)
        return jnp.minimum(least, seen + (i - FAR) ** 2)

    return jax.lax.fori_loop(0, 2 * FAR + 1, look, squared)


def _evened(depth: jax.Array) -> jax.Array:
    """Histogram equalisation of whole numbers from 0 to FAR, to levels from 0 to 255."""
    counts = jnp.cumsum(jnp.sum(depth.ravel()[:, None] == jnp.arange(FAR + 1), 0))
    first = counts[jnp.min(depth).astype(jnp.int32)]
    scale = 255 / jnp.maximum(depth.size - first, 1)
    return jnp.round(jnp.maximum(counts - first, 0) * scale)[depth.astype(jnp.int32)]
