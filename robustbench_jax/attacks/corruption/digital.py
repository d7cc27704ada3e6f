"""Digital: contrast, elastic transform, pixelate, JPEG compression.

Reference: Hendrycks & Dietterich, ICLR 2019, arXiv:1903.12261; the elastic transform after Simard, Steinkraus & Platt,
ICDAR 2003.
Departs from the paper: lengths of the elastic transform scale with the image, as its program writes them (for 32 and
for 224 pixels); reading between pixels is not rounded to 1/32 of a pixel. JPEG: see ops/jpeg.py.
Shapes: H height, W width, C channels. Written for one image [H, W, C] in [0, 1].
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.attacks.corruption.corruption import Corruption, unit
from robustbench_jax.ops.filters import PRECISION, gaussian, warp
from robustbench_jax.ops.jpeg import jpeg
from robustbench_jax.registry import register
from robustbench_jax.types import record


@register("attack", "contrast", threat="corruption", access="none", paper="hendrycks2019")
@record
class Contrast(Corruption):
    """Each channel is drawn towards its mean; the parameter is the share of the contrast that is left."""

    small = (0.75, 0.5, 0.4, 0.3, 0.15)
    middle = (0.4, 0.3, 0.2, 0.1, 0.05)
    large = (0.4, 0.3, 0.2, 0.1, 0.05)

    def corrupt(self, key: jax.Array, x: jax.Array, severity: Any) -> jax.Array:
        means = jnp.mean(x, (0, 1), keepdims=True)
        return unit((x - means) * self.chosen(x, severity) + means)


@register("attack", "elastic_transform", threat="corruption", access="none", paper="hendrycks2019")
@record
class ElasticTransform(Corruption):
    """A random affine map, then a smooth random displacement of every pixel.

    Parameters, as shares of the shorter side: the displacement's strength, the sigma that smooths it, and how far the
    three points that determine the affine map may move along each axis.
    """

    small = ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03))
    middle = ((0, 0, 0.08), (0.05, 0.3, 0.06), (0.1, 0.08, 0.06), (0.1, 0.03, 0.03), (0.16, 0.03, 0.02))
    large = ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))
    side = 244 / 224  # the program's unit for images of 224 pixels is 244

    def corrupt(self, key: jax.Array, x: jax.Array, severity: Any) -> jax.Array:
        side = min(x.shape[:2]) * (self.side if self.table(x)[0, 0] else 1.0)
        strength, sigma, jitter = self.chosen(x, severity) * side
        drawn = jax.random.uniform(key, (3 + x.shape[0] * x.shape[1], 2), minval=-1.0, maxval=1.0)
        turned, noise = _affine(x, drawn[:3] * jitter), drawn[3:].reshape(*x.shape[:2], 2)
        most = float(self.table(x)[:, 1].max()) * side
        moved = strength * gaussian(noise, sigma, most=most, truncate=3.0, border="symmetric")
        rows, columns = _grid(x)
        return unit(warp(turned, rows + moved[..., 0], columns + moved[..., 1], "symmetric"))


@register("attack", "pixelate", threat="corruption", access="none", paper="hendrycks2019")
@record
class Pixelate(Corruption):
    """Made smaller by the parameter, with a box filter, and larger again; rounded after each axis, as Pillow does."""

    small = (0.95, 0.9, 0.85, 0.75, 0.65)
    middle = (0.9, 0.8, 0.7, 0.6, 0.5)
    large = (0.6, 0.5, 0.4, 0.3, 0.25)

    def corrupt(self, key: jax.Array, x: jax.Array, severity: Any) -> jax.Array:
        smaller, larger = zip(*(self._boxes(n, x) for n in x.shape[:2]), strict=True)
        levels = x * 255.0
        for rows, columns in (smaller, larger):
            levels = _rounded("lk,ikc->ilc", columns[severity - 1], levels)
            levels = _rounded("ij,jlc->ilc", rows[severity - 1], levels)
        return unit(levels / 255.0)

    def _boxes(self, n: int, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """An axis of n pixels made smaller and larger again, [5, n, n] each; rows that are not there are 0."""
        few = np.maximum((n * np.round(self.table(x).astype(float), 6)).astype(int), 1)
        shrink = [np.pad(_box(m, n), ((0, n - m), (0, 0))) for m in few]
        grow = [np.pad(_box(n, m), ((0, 0), (0, n - m))) for m in few]
        return jnp.asarray(np.stack(shrink), jnp.float32), jnp.asarray(np.stack(grow), jnp.float32)


@register("attack", "jpeg_compression", threat="corruption", access="none", paper="hendrycks2019")
@record
class JPEGCompression(Corruption):
    """The parameter is the quality, from 1 to 100."""

    small = (80, 65, 58, 50, 40)
    middle = (65, 58, 50, 40, 25)
    large = (25, 18, 15, 10, 7)

    def corrupt(self, key: jax.Array, x: jax.Array, severity: Any) -> jax.Array:
        return jpeg(x, self.chosen(x, severity))


def _affine(x: jax.Array, moves: jax.Array) -> jax.Array:
    """x under the affine map that moves three points around its centre by moves [3, 2], in pixels."""
    middle, apart = np.array(x.shape[:2]) // 2, min(x.shape[:2]) // 3
    source = middle + apart * np.array([[1, 1], [-1, 1], [-1, -1]])
    target = source + moves
    edges, sides = target[:2] - target[2], (source[:2] - source[2]).astype(np.float32)
    area = edges[0, 0] * edges[1, 1] - edges[0, 1] * edges[1, 0]
    inverse = jnp.array([[edges[1, 1], -edges[0, 1]], [-edges[1, 0], edges[0, 0]]]) / area
    places = jnp.stack(_grid(x), -1) - target[2]
    back = jnp.sum(places[..., None] * (inverse @ sides), -2) + source[2]
    return warp(x, back[..., 0], back[..., 1], "reflect")


def _grid(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The row and the column of every pixel, [H, W] each."""
    return tuple(jnp.meshgrid(*(jnp.arange(n, dtype=jnp.float32) for n in x.shape[:2]), indexing="ij"))


def _rounded(axes: str, matrix: jax.Array, levels: jax.Array) -> jax.Array:
    return jnp.floor(jnp.einsum(axes, matrix, levels, precision=PRECISION) + 0.5 + 1e-3)


def _box(new: int, old: int) -> np.ndarray:
    """[new, old]: each new pixel is the mean of the old ones whose centres lie in it, at least of the nearest."""
    scale = old / new
    centre, half = (np.arange(new)[:, None] + 0.5) * scale, 0.5 * max(scale, 1.0)
    first, last = np.floor(centre - half + 0.5), np.floor(centre + half + 0.5)
    inside = (np.arange(old) >= first) & (np.arange(old) < last)
    return inside / inside.sum(1, keepdims=True)
