"""What JPEG compression does to an image: 8x8 cosine transforms, quantised, with halved chroma.

Reference: ITU-T T.81 (1992), tables of annex K; JFIF 1.02 for the colours; the scaling of the tables by a quality from
1 to 100 is that of the Independent JPEG Group's library. Entropy coding loses nothing and is left out.
Departs from that library: the cosine transforms are in float32, not in integers, so a coefficient that lies between
two levels may fall on the other side. Its subsampling, smooth upsampling and roundings to 8 bits are followed.
Shapes: H height, W width, C channels. One image [H, W, C] in [0, 1].
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.ops.filters import PRECISION, along_axes

BRIGHTNESS = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
CHROMA = np.full((8, 8), 99)
CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]

FREQUENCY, PLACE = np.arange(8)[:, None], np.arange(8)
COSINES = np.where(FREQUENCY, 0.5, 0.125**0.5) * np.cos((2 * PLACE + 1) * FREQUENCY * np.pi / 16)
TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
TO_RGB = np.array([[1.0, 0.0, 1.402], [1.0, -0.344136, -0.714136], [1.0, 1.772, 0.0]])
CENTRE = np.array([0.0, 128.0, 128.0])


def jpeg(x: jax.Array, quality: Any) -> jax.Array:
    """x after compression at `quality` (1 to 100, traced) and decompression; 4:2:0 for three channels."""
    return Codec(jnp.round, lambda levels: jnp.clip(jnp.round(levels), 0, 255)).coded(x, quality)


def smooth_jpeg(x: jax.Array, quality: Any) -> jax.Array:
    """The same with a derivative: coefficients are rounded by `cubic`, levels not at all, not even into 8 bits."""
    return Codec(cubic, lambda levels: levels).coded(x, quality)


def cubic(x: jax.Array) -> jax.Array:
    """Near to the nearest whole number, and flat there: Shin & Song, NIPS workshop on machine learning and computer
    security, 2017.
    """
    whole = jax.lax.stop_gradient(jnp.round(x))
    return whole + (x - whole) ** 3


@dataclass(frozen=True)
class Codec:
    """rounded: what makes whole numbers of coefficients; level: what makes 8 bits of a level."""

    rounded: Callable
    level: Callable

    def coded(self, x: jax.Array, quality: Any) -> jax.Array:
        """[H, W, C] after compression and decompression."""
        levels = self.level(x * 255.0)
        if x.shape[-1] != 3:
            planes = [self._plane(levels[..., c], BRIGHTNESS, quality) for c in range(x.shape[-1])]
            return jnp.stack(planes, -1) / 255.0
        ycc = self.level(_colours(TO_YCC, levels) + CENTRE)
        bright = self._plane(ycc[..., 0], BRIGHTNESS, quality)
        chroma = [self._plane(self._halved(ycc[..., c]), CHROMA, quality) for c in (1, 2)]
        large = [self._enlarged(plane, x.shape[:2]) for plane in chroma]
        return self.level(_colours(TO_RGB, jnp.stack([bright, *large], -1) - CENTRE)) / 255.0

    def _plane(self, plane: jax.Array, table: np.ndarray, quality: Any) -> jax.Array:
        """A plane [H, W] of levels 0 to 255 after quantisation of its cosine coefficients."""
        height, width = plane.shape
        whole = jnp.pad(plane, ((0, -height % 8), (0, -width % 8)), mode="edge") - 128.0
        blocks = whole.reshape(whole.shape[0] // 8, 8, whole.shape[1] // 8, 8)
        cosines = COSINES.astype(np.float32)
        steps = _steps(table, quality)[:, None, :]
        found = jnp.einsum("ua,iajb,vb->iujv", cosines, blocks, cosines, precision=PRECISION)
        coefficients = self.rounded(found / steps) * steps
        restored = jnp.einsum("ua,iujv,vb->iajb", cosines, coefficients, cosines, precision=PRECISION)
        return self.level(restored.reshape(whole.shape)[:height, :width] + 128.0)

    def _halved(self, plane: jax.Array) -> jax.Array:
        """Means of 2x2 levels, rounded up in every other column, so that the error has no direction."""
        height, width = plane.shape
        even = jnp.pad(plane, ((0, height % 2), (0, width % 2)), mode="edge")
        sums = even.reshape((height + 1) // 2, 2, (width + 1) // 2, 2).sum((1, 3))
        return self.level((sums - 0.5 + np.arange(sums.shape[1]) % 2) / 4)  # never in the middle of two levels

    def _enlarged(self, plane: jax.Array, shape: tuple[int, int]) -> jax.Array:
        """Twice the size: each new pixel is three parts the nearest and one part the next nearest in each direction."""
        rows, columns = (_triangle(n) for n in plane.shape)
        sums = along_axes(rows, columns, plane[..., None])[..., 0]
        return self.level((sums + 0.5 - np.arange(2 * plane.shape[1]) % 2) / 16)[: shape[0], : shape[1]]


def _colours(matrix: np.ndarray, x: jax.Array) -> jax.Array:
    return jnp.einsum("dc,hwc->hwd", matrix.astype(np.float32), x, precision=PRECISION)


def _steps(table: np.ndarray, quality: Any) -> jax.Array:
    scale = jnp.where(quality < 50, jnp.floor(5000 / quality), 200 - 2 * quality)
    return jnp.clip(jnp.floor((table * scale + 50) / 100), 1, 255)


def _triangle(n: int) -> jax.Array:
    """[2n, n]: 3 for the nearest pixel and 1 for the next one; 4 for the outermost."""
    new, near = np.arange(2 * n), np.arange(2 * n) // 2
    other = np.clip(near + 2 * (new % 2) - 1, 0, n - 1)
    return jnp.asarray(3.0 * np.eye(n)[near] + np.eye(n)[other], jnp.float32)
