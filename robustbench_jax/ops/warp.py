"""Moved images: what an image shows at places between its pixels, bilinear.

Shapes: H, W, C image. One example. Differentiable in the places.
"""

import jax
import jax.numpy as jnp


def bilinear(x: jax.Array, rows: jax.Array, columns: jax.Array, *, outside: str) -> jax.Array:
    """x [H, W, C] at rows and columns [H', W'] -> [H', W', C], exact at whole ones.

    outside: "black" (0 beyond the edge, into which the image fades within a pixel) or "edge" (the nearest pixel).
    """
    height, width = x.shape[:2]
    if outside == "edge":
        rows, columns = jnp.clip(rows, 0, height - 1), jnp.clip(columns, 0, width - 1)
    top, left = jnp.floor(rows), jnp.floor(columns)
    down, right = rows - top, columns - left
    corners = ((0, 0, (1 - down) * (1 - right)), (0, 1, (1 - down) * right), (1, 0, down * (1 - right)))
    total = 0.0
    for a, b, weight in (*corners, (1, 1, down * right)):
        row, column = top.astype(jnp.int32) + a, left.astype(jnp.int32) + b
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        pixels = x[jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)]
        total += jnp.where(inside[..., None], weight[..., None] * pixels, 0.0)
    return total
