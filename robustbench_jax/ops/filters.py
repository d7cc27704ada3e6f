"""Linear filters of images: smoothing and resampling as matrices, blurs along a line and with any small kernel.

A separable filter of an axis of n pixels is a matrix [n, n] with the border folded into it, so that a traced width
costs two matrix products and no convolution. Borders: "edge" repeats the last pixel, "symmetric" mirrors it twice,
"reflect" once (the names of NumPy's `pad`).
Shapes: H height, W width, C channels. One image [H, W, C], float32.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PRECISION = jax.lax.Precision.HIGHEST  # bfloat16 or TF32 products would show in the image


def along_axes(rows: jax.Array, columns: jax.Array, x: jax.Array) -> jax.Array:
    """[H', W', C] from matrices rows [H', H] and columns [W', W]."""
    return jnp.einsum("ij,jkc,lk->ilc", rows, x, columns, precision=PRECISION)


def gaussian(x: jax.Array, sigma: Any, *, most: float, truncate: float = 4.0, border: str = "edge") -> jax.Array:
    """Gaussian blur cut off at `truncate` sigmas, as SciPy cuts it. sigma (pixels) is traced, `most` its static bound.

    x itself where sigma = 0.
    """
    rows, columns = (smoothing(n, sigma, int(truncate * most + 0.5), truncate, border) for n in x.shape[:2])
    return along_axes(rows, columns, x)


def smoothing(n: int, sigma: Any, radius: int, truncate: float, border: str) -> jax.Array:
    """The matrix [n, n] of a Gaussian of at most `radius` pixels to each side."""
    offsets = np.arange(-radius, radius + 1)
    weights = jnp.where(jnp.abs(offsets) <= jnp.floor(truncate * sigma + 0.5), _bell(offsets, sigma), 0.0)
    weights = weights / jnp.sum(weights)
    source = np.pad(np.arange(n), radius, mode=border)[np.arange(n)[:, None] + np.arange(2 * radius + 1)]
    target = np.broadcast_to(np.arange(n)[:, None], source.shape)
    return jnp.zeros((n, n)).at[target, source].add(jnp.broadcast_to(weights, source.shape))


def between(coordinates: jax.Array, n: int) -> jax.Array:
    """The matrix [len(coordinates), n] that reads an axis of n pixels at fractional places, linearly."""
    return jnp.maximum(0.0, 1.0 - jnp.abs(coordinates[:, None] - jnp.arange(n)))


def convolve(x: jax.Array, kernel: jax.Array, border: str = "reflect") -> jax.Array:
    """Correlation of each channel with an odd kernel [K, K], whose K is below twice the size of the image."""
    half = kernel.shape[0] // 2
    padded = jnp.pad(x, ((half, half), (half, half), (0, 0)), mode=border)
    channels = jnp.moveaxis(padded, -1, 0)[..., None]
    names = ("NHWC", "HWIO", "NHWC")
    blurred = jax.lax.conv_general_dilated(
        channels, kernel[:, :, None, None], (1, 1), "VALID", dimension_numbers=names, precision=PRECISION
    )
    return jnp.moveaxis(blurred[..., 0], 0, -1)


def streak(x: jax.Array, radius: Any, sigma: Any, degrees: Any, *, most: int) -> jax.Array:
    """Motion blur: half a Gaussian of 2 * radius + 1 whole-pixel steps in one direction, the border repeated.

    This is what ImageMagick's MotionBlurImage does. radius, sigma and degrees are traced; `most` is radius's bound.
    """
    reach, angle = 2 * most + 1, jnp.deg2rad(degrees)
    steps = jnp.arange(reach)
    weights = jnp.where(steps < 2 * radius + 1, _bell(steps, sigma), 0.0)
    weights = weights / jnp.sum(weights)
    down, right = (jnp.ceil(steps * part - 0.5).astype(jnp.int32) for part in (jnp.sin(angle), jnp.cos(angle)))
    padded = jnp.pad(x, ((reach, reach), (reach, reach), (0, 0)), mode="edge")

    def add(i, total):
        return total + weights[i] * jax.lax.dynamic_slice(padded, (reach + down[i], reach + right[i], 0), x.shape)

    return jax.lax.fori_loop(0, reach, add, jnp.zeros_like(x))


def warp(x: jax.Array, rows: jax.Array, columns: jax.Array, border: str = "reflect") -> jax.Array:
    """x read linearly at places rows [H', W'] and columns [H', W'], in pixels and anywhere on the plane."""
    top, left = jnp.floor(rows), jnp.floor(columns)
    down, right = rows - top, columns - left
    fold = partial(_fold, border=border)

    def at(i, j):
        return x[fold(top.astype(jnp.int32) + i, x.shape[0]), fold(left.astype(jnp.int32) + j, x.shape[1])]

    corners = (((1 - down) * (1 - right), 0, 0), ((1 - down) * right, 0, 1), (down * (1 - right), 1, 0))
    return sum(w[..., None] * at(i, j) for w, i, j in (*corners, (down * right, 1, 1)))


def plasma(key: jax.Array, size: int, decay: Any) -> jax.Array:
    """A fractal height map [size, size] from 0 to 1 that wraps around, by the diamond-square algorithm.

    Each level draws its detail uniformly, with a range that `decay` squared divides from level to level. `size` is a
    power of two.

    Reference: Fournier, Fussell & Carpenter, Communications of the ACM 25(6), 1982.
    """
    heights, noise = jnp.zeros((1, 1)), 100.0**2 * jax.random.uniform(key, (size**2 - 1,), minval=-1.0, maxval=1.0)
    for level in range(size.bit_length() - 1):
        n = 2**level
        heights = _finer(heights, noise[n**2 - 1 : 4 * n**2 - 1].reshape(3, n, n) / decay ** (2 * level))
    heights = heights - jnp.min(heights)
    return heights / jnp.maximum(jnp.max(heights), 1e-30)


def _finer(corners: jax.Array, noise: jax.Array) -> jax.Array:
    """Twice the resolution: a centre for each square, then a middle for each edge between. noise [3, n, n]."""
    n = len(corners)
    pairs = corners + jnp.roll(corners, -1, 0)
    centres = (pairs + jnp.roll(pairs, -1, 1)) / 4 + noise[0]
    across = (centres + jnp.roll(centres, 1, 0) + corners + jnp.roll(corners, -1, 1)) / 4 + noise[1]
    down = (centres + jnp.roll(centres, 1, 1) + corners + jnp.roll(corners, -1, 0)) / 4 + noise[2]
    above, below = jnp.stack([corners, across], -1), jnp.stack([down, centres], -1)
    return jnp.stack([above.reshape(n, 2 * n), below.reshape(n, 2 * n)], 1).reshape(2 * n, 2 * n)


def _bell(offsets: Any, sigma: Any) -> jax.Array:
    return jnp.exp(-0.5 * (offsets / jnp.maximum(sigma, 1e-6)) ** 2)


def _fold(index: jax.Array, n: int, border: str) -> jax.Array:
    """The pixel inside that stands for any whole number: mirrored with its period, or the nearest."""
    if border == "edge" or n == 1:
        return jnp.clip(index, 0, n - 1)
    twice = int(border == "symmetric")
    period = 2 * (n - 1 + twice)
    index = index % period
    return jnp.where(index < n, index, period - twice - index)
