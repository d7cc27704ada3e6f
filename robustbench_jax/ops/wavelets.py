"""Scattering: averages of how strongly an image answers to wavelets, and how strongly those answers do.

References: Bruna & Mallat, 2013, arXiv:1203.1513; for images and learning, Oyallon & Mallat, CVPR 2015,
arXiv:1412.8659. Of x, wavelets psi of scale j and angle t, and a Gaussian phi of the largest scale: x * phi, then
|x * psi_1| * phi, then ||x * psi_1| * psi_2| * phi for j_1 < j_2, each at one place in 2^J x 2^J. Nothing is learnt.
Filters (Morlet wavelets, their widths and frequencies), borders and the order of the channels are those of Kymatio
(Andreux et al., JMLR 2020, arXiv:1812.11214), of whose values these are within 2e-4.
Shapes: H height, W width, C channels, J scales, L angles, K paths = 1 + J L + L^2 J (J - 1) / 2; M, N padded sides.
"""

import math
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np

WIDTH, FREQUENCY = 0.8, 3 / 4 * math.pi  # of the smallest wavelet; of the next ones twice and half as much
TINY = 1e-12  # under the root of a modulus, whose slope at 0 it makes 0


def paths(scales: int, angles: int) -> int:
    """K."""
    return 1 + scales * angles + angles**2 * scales * (scales - 1) // 2


def scattered(x: jax.Array, scales: int, angles: int) -> jax.Array:
    """x [..., H, W, C] to [..., H / 2^J, W / 2^J, C K], rounded down, the paths of a channel side by side."""
    low, waves = filters(padded(x.shape[-3], scales), padded(x.shape[-2], scales), scales, angles)
    spectrum = jnp.fft.fft2(_bordered(jnp.moveaxis(x, -1, -3), low[0].shape))

    def smoothed(spectrum, j):
        """The average, once in 2^J places, of what is there once in 2^j."""
        return jnp.fft.ifft2(_thinned(spectrum * low[j], 2 ** (scales - j))).real[..., 1:-1, 1:-1]

    first, second = [], []
    for i in range(scales):
        answers = jnp.fft.fft2(_strength(spectrum[..., None, :, :] * waves[i, 0], 2**i))
        first.append(smoothed(answers, i))
        further = [answers[..., None, :, :] * waves[j, i] for j in range(i + 1, scales)]
        deeper = [
            smoothed(jnp.fft.fft2(_strength(each, 2 ** (j - i))), j) for j, each in enumerate(further, start=i + 1)
        ]
        if deeper:
            second.append(_in_line(jnp.concatenate(deeper, axis=-3)))
    every = jnp.concatenate([smoothed(spectrum, 0)[..., None, :, :], *first, *second], axis=-3)
    return jnp.moveaxis(_in_line(every), -3, -1)


def padded(side: int, scales: int) -> int:
    return (side // 2**scales + 2) * 2**scales


@lru_cache
def filters(high: int, wide: int, scales: int, angles: int) -> tuple[tuple, dict]:
    """Of images [M, N] that are there at one place in 2^r x 2^r: transforms of phi, by r, and of psi, [L, m, n] by (j,
    r).
    """
    largest = _gabor(high, wide, WIDTH * 2 ** (scales - 1), 0.0, 0.0, 1.0)
    low = tuple(_coarser(_spectrum(largest), r) for r in range(scales))
    waves = {}
    for j in range(scales):
        turned = [(angles // 2 - 1 - k) * math.pi / angles for k in range(angles)]
        fine = np.stack([_spectrum(_morlet(high, wide, j, angle, 4 / angles)) for angle in turned])
        waves |= {(j, r): _coarser(fine, r) for r in range(max(j, 1))}
    return low, waves


def _morlet(high: int, wide: int, j: int, angle: float, slant: float) -> np.ndarray:
    """A wave under a Gaussian, less as much of the Gaussian as makes its sum 0."""
    width, frequency = WIDTH * 2**j, FREQUENCY / 2**j
    wave, envelope = (_gabor(high, wide, width, angle, f, slant) for f in (frequency, 0.0))
    return wave - wave.sum() / envelope.sum() * envelope


def _gabor(high: int, wide: int, width: float, angle: float, frequency: float, slant: float) -> np.ndarray:
    """exp(i f u) times a Gaussian of unit sum, `width` wide along u and width / slant across it; as images have, it
    has one side for the other, and comes in again there.
    """
    rows, columns = (np.arange(-2 * side, 3 * side) for side in (high, wide))
    down, right = np.meshgrid(rows, columns, indexing="ij")
    along, across = (down * math.cos(a) + right * math.sin(a) for a in (angle, angle + math.pi / 2))
    inside = (along**2 + (slant * across) ** 2) / (2 * width**2)
    values = np.exp(-inside + 1j * frequency * along) * slant / (2 * math.pi * width**2)
    return values.reshape(5, high, 5, wide).sum((0, 2))


def _spectrum(values: np.ndarray) -> np.ndarray:
    """Real: what is at -u is the conjugate of what is at u."""
    return np.fft.fft2(values).real


def _coarser(spectrum: np.ndarray, r: int) -> np.ndarray:
    """The lowest frequencies alone, of both signs: [..., M / 2^r, N / 2^r]."""
    for axis in (-2, -1):
        side = spectrum.shape[axis]
        kept = side >> r
        rows = np.r_[: kept // 2, side - (kept - kept // 2) : side]
        spectrum = np.take(spectrum, rows, axis)
    return spectrum.astype(np.float32)


def _bordered(images: jax.Array, sides: tuple[int, int]) -> jax.Array:
    """[..., H, W] with a mirror image of themselves around them."""
    missing = [m - n for m, n in zip(sides, images.shape[-2:], strict=True)]
    around = [(0, 0)] * (images.ndim - 2) + [(n // 2, n - n // 2) for n in missing]
    return jnp.pad(images, around, mode="reflect")


def _thinned(spectrum: jax.Array, k: int) -> jax.Array:
    """The transform of every k-th place."""
    *outer, high, wide = spectrum.shape
    return spectrum.reshape(*outer, k, high // k, k, wide // k).mean((-4, -2))


def _strength(spectrum: jax.Array, k: int) -> jax.Array:
    """The modulus at every k-th place."""
    answer = jnp.fft.ifft2(_thinned(spectrum, k))
    return jnp.sqrt(answer.real**2 + answer.imag**2 + TINY)


def _in_line(parts: jax.Array) -> jax.Array:
    """[..., A, B, h, w] -> [..., A B, h, w]."""
    return parts.reshape(*parts.shape[:-4], -1, *parts.shape[-2:])
