"""Blur: defocus, frosted glass, motion, zoom and, of the four extra corruptions, Gaussian.

Reference: Hendrycks & Dietterich, ICLR 2019, arXiv:1903.12261.
Departs from the paper: nothing, but from what its text says to what its program does. Glass blur is described as a
local shuffling of pixels; the program that made the data sets copies a neighbour over each pixel instead of swapping
the two (`a, b = b, a` on views of an array), and so does this one.
Shapes: H height, W width, C channels. Written for one image [H, W, C] in [0, 1].
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.attacks.corruption.corruption import Corruption, unit, whole_levels
from robustbench_jax.ops.filters import along_axes, between, convolve, gaussian, streak
from robustbench_jax.registry import register
from robustbench_jax.types import record


@register("attack", "defocus_blur", threat="corruption", access="none", paper="hendrycks2019")
@record
class DefocusBlur(Corruption):
    """A disk whose rim is smoothed: its radius, and the sigma of the smoothing, in pixels."""

    small = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))
    middle = ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1))
    large = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))

    def corrupt(self, key: jax.Array, x: jax.Array, severity: Any) -> jax.Array:
        most = math.ceil(self.table(x)[:, 0].max()) + 2
        disks = np.stack([_disk(*row, most) for row in self.table(x)])
        return unit(convolve(x, jnp.asarray(disks)[severity - 1]))


@register("attack", "glass_blur", threat="corruption", access="none", paper="hendrycks2019")
@record
class GlassBlur(Corruption):
    """Blurred, each pixel replaced by one at most so many pixels away, and blurred again.

    Parameters: the blur's sigma, the distance, and how often pixels are replaced.
    """

    small = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))
    middle = ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2))
    large = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))

    def corrupt(self, key: jax.Array, x: jax.Array, severity: Any) -> jax.Array:
        sigma, reach, rounds = self.chosen(x, severity)
        most, furthest, _ = self.table(x).max(0)
        blurred = whole_levels(gaussian(x, sigma, most=most))
        moved = _shattered(key, blurred, reach.astype(jnp.int32), int(furthest), rounds.astype(jnp.int32))
        return unit(gaussian(moved, sigma, most=most))


@register("attack", "motion_blur", threat="corruption", access="none", paper="hendrycks2019")
@record
class MotionBlur(Corruption):
    """A streak to one side, up to 45 degrees from the horizontal: its radius and sigma in pixels."""

    small = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))
    middle = ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3))
    large = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))

    def corrupt(self, key: jax.Array, x: jax.Array, severity: Any) -> jax.Array:
        radius, sigma = self.chosen(x, severity)
        most = int(self.table(x)[:, 0].max())
        return unit(streak(x, radius, sigma, jax.random.uniform(key, minval=-45.0, maxval=45.0), most=most))


@register("attack", "zoom_blur", threat="corruption", access="none", paper="hendrycks2019")
@record
class ZoomBlur(Corruption):
    """The mean of the image and of enlargements of its centre: the largest zoom (excluded) and the step between."""

    small = ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01))
    middle = small
    large = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))

    def corrupt(self, key: jax.Array, x: jax.Array, severity: Any) -> jax.Array:
        zooms = [np.arange(1, *np.round(row.astype(float), 6)) for row in self.table(x)]
        most, counts = max(map(len, zooms)), np.array([len(row) for row in zooms])
        padded = np.stack([np.resize(row, most) for row in zooms])
        rows, columns = (jnp.asarray(_zoomed(padded, n))[severity - 1] for n in x.shape[:2])

        def add(i, total):
            larger = along_axes(between(rows[i], x.shape[0]), between(columns[i], x.shape[1]), x)
            return total + jnp.where(i < jnp.asarray(counts)[severity - 1], larger, 0.0)

        return unit(jax.lax.fori_loop(0, most, add, x) / (1 + jnp.asarray(counts)[severity - 1]))


@register("attack", "gaussian_blur", threat="corruption", access="none", paper="hendrycks2019")
@record
class GaussianBlur(Corruption):
    """The parameter is sigma, in pixels."""

    small = (0.4, 0.6, 0.7, 0.8, 1)
    middle = (0.5, 0.75, 1, 1.25, 1.5)
    large = (1, 2, 3, 4, 6)

    def corrupt(self, key: jax.Array, x: jax.Array, severity: Any) -> jax.Array:
        return unit(gaussian(x, self.chosen(x, severity), most=self.table(x).max()))


def zoomed(x: jax.Array, zooms: tuple, severity: Any) -> jax.Array:
    """The centre of x [H, W, C], enlarged to its size by the severity's factor of at least 1."""
    rows, columns = (jnp.asarray(_zoomed(np.asarray(zooms), n))[severity - 1] for n in x.shape[:2])
    return along_axes(between(rows, x.shape[0]), between(columns, x.shape[1]), x)


def _zoomed(zooms: np.ndarray, n: int) -> np.ndarray:
    """Where each of n pixels of an enlarged centre is read from: [..., n] for zooms [...]. SciPy's `zoom`, cropped."""
    zooms = np.asarray(zooms, float)[..., None]
    crop = np.ceil(n / zooms)
    size = np.round(crop * zooms)
    place = np.arange(n) + (size - n) // 2
    return ((n - crop) // 2 + place * (crop - 1) / np.maximum(size - 1, 1)).astype(np.float32)


def _disk(radius: float, sigma: float, most: int) -> np.ndarray:
    """[2 * most + 1] squared: a disk of sum 1, smoothed by 3 (5 above a radius of 8) Gaussian weights each way."""
    wide, half = int(max(8, radius)), 1 if radius <= 8 else 2
    line = np.arange(-wide, wide + 1)
    disk = (line**2 + line[:, None] ** 2 <= radius**2).astype(float)
    weights = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma) ** 2)
    weights = np.outer(weights, weights) / weights.sum() ** 2
    padded, size = np.pad(disk / disk.sum(), half, mode="reflect"), len(line)
    spans = range(2 * half + 1)
    smooth = sum(weights[i, j] * padded[i : i + size, j : j + size] for i in spans for j in spans)
    grown = np.pad(smooth, most)
    middle = len(grown) // 2
    return grown[middle - most : middle + most + 1, middle - most : middle + most + 1].astype(np.float32)


def _shattered(key: jax.Array, x: jax.Array, reach: jax.Array, furthest: int, rounds: jax.Array) -> jax.Array:
    """From the last pixel to the first, each becomes a random one less than `reach` below or right, or up to it above.

    One pixel may copy another that was replaced before, so the order matters. Rows run at once, each 2 * furthest + 1
    pixels behind the row below: too far apart to touch, so that the result is that of one pixel after another.
    """
    height, width, _ = x.shape
    lag, behind = 2 * furthest + 1, np.arange(height)
    fronts = width + lag * height

    def advance(t, x):
        own = jax.random.fold_in(key, t)
        rows, columns = height - reach - behind, width - reach - (t % fronts - lag * behind)
        inside = (rows > reach) & (columns > reach) & (columns <= width - reach)
        down, right = jax.random.randint(own, (2, height), -reach, reach)
        near = x[jnp.clip(rows + down, 0, height - 1), jnp.clip(columns + right, 0, width - 1)]
        return x.at[jnp.where(inside, rows, height), columns].set(near, mode="drop")

    return jax.lax.fori_loop(0, rounds * fronts, advance, x)
