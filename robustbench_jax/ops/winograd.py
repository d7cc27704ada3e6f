"""Winograd's convolution with 3x3 kernels: 16 products for 4 pixels instead of 36, as 16 matrix products.

Reference: Lavin & Gray, CVPR 2016, arXiv:1509.09308, F(2x2, 3x3); its error in float32 is that of a direct sum.
Shapes: N images, height H, width W, channels in I, channels out O; tiles of 2 x 2 pixels of the result.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

Tiles = tuple[jax.Array, ...]
KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)


def winograd(x: jax.Array, kernel: jax.Array, pads: tuple[tuple[int, int], tuple[int, int]]) -> jax.Array:
    """Cross-correlates x [N, H, W, I] with kernel [3, 3, I, O], stride 1, zeros around; returns [N, H', W', O]."""
    ins, outs = kernel.shape[2:]
    high, wide = (n + sum(p) - 2 for n, p in zip(x.shape[1:3], pads, strict=True))
    down, right = -(-high // 2), -(-wide // 2)
    (top, bottom), (left, over) = pads
    around = ((0, 0), (top, bottom + 2 * down - high), (left, over + 2 * right - wide), (0, 0))
    x = jnp.pad(jax.lax.optimization_barrier(x), around)  # made whole: each of the 16 tiles reads it
    seen = [[x[:, i : i + 2 * down - 1 : 2, j : j + 2 * right - 1 : 2] for j in range(4)] for i in range(4)]
    mixed = jnp.einsum("ai,bj,ijco->abco", KERNEL, KERNEL, kernel, precision="highest")
    products = [
        [(tile.reshape(-1, ins) @ mixed[i, j]).reshape(*tile.shape[:3], outs) for j, tile in enumerate(row)]
        for i, row in enumerate(_both(_spread, seen))
    ]
    pixels = [jnp.stack(row, axis=3) for row in _both(_gather, products)]
    image = jnp.stack(pixels, axis=2)  # [N, tiles, 2, tiles, 2, O]
    return image.reshape(len(x), 2 * down, 2 * right, outs)[:, :high, :wide]


def _both(change: Callable[[Tiles], Tiles], rows: list[Tiles]) -> list[Tiles]:
    """The change applied to every row, and then to every column of what that gives."""
    for _ in range(2):
        rows = list(zip(*map(change, rows), strict=True))
    return rows


def _spread(a: Tiles) -> Tiles:
    return a[0] - a[2], a[1] + a[2], a[2] - a[1], a[1] - a[3]


def _gather(a: Tiles) -> Tiles:
    return a[0] + a[1] + a[2], a[1] - a[2] - a[3]
