"""Random changes of an image that leave its class: turned, sheared, moved, or with other levels of brightness.

Reference: the nine operations of AugMix, Hendrycks et al., ICLR 2020, arXiv:1912.02781, as Pillow has them; strength
`level` from 0 to 10. Levels are whole numbers from 0 to 255, and after each operation rounded to such.
Shapes: one image [H, W, C].
"""

from typing import Any

import jax
import jax.numpy as jnp

from robustbench_jax.ops.warp import bilinear

TABLES = ("autocontrast", "equalize", "posterize", "solarize")
MOTIONS = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
COUNT = len(TABLES) + len(MOTIONS)
LEVELS = 256


def augmented(key: jax.Array, x: jax.Array, which: jax.Array, level: Any) -> jax.Array:
    """x, of levels 0 to 255, after operation number `which` (of TABLES, then MOTIONS) with a random sign."""
    sign = jax.random.rademacher(key, (), x.dtype)
    looked_up = jnp.take_along_axis(
        tables(x, level)[jnp.clip(which, 0, 3)], x.astype(jnp.int32).reshape(-1, x.shape[-1]), 0
    )
    moved = bilinear(x, *places(x, which - len(TABLES), level * sign), outside="black")
    return jnp.where(which < len(TABLES), looked_up.reshape(x.shape), jnp.round(moved))


def tables(x: jax.Array, level: Any) -> jax.Array:
    """[4, 256, C]: what each of TABLES makes of each level of each channel."""
    old = jnp.arange(LEVELS, dtype=x.dtype)[:, None]
    bits = 4 - jnp.floor(level * 4 / 10)
    step = 2.0 ** (8 - bits)
    threshold = LEVELS - jnp.floor(level * LEVELS / 10)
    same = jnp.broadcast_to(old, (LEVELS, x.shape[-1]))
    made = (
        stretched(x, old),
        equalised(x, same),
        jnp.floor(same / step) * step,
        jnp.where(same < threshold, same, 255 - same),
    )
    return jnp.stack(made)


def stretched(x: jax.Array, old: jax.Array) -> jax.Array:
    """[256, C]: from the darkest to the brightest of each channel, all of the levels."""
    low, high = jnp.min(x, (0, 1)), jnp.max(x, (0, 1))
    steps = (old - low).astype(jnp.int32) * 255 // jnp.maximum(high - low, 1).astype(jnp.int32)
    return jnp.where(high > low, jnp.clip(steps, 0, 255).astype(old.dtype), old)


def equalised(x: jax.Array, same: jax.Array) -> jax.Array:
    """[256, C]: each channel's levels used about equally often."""
    flat = x.astype(jnp.int32).reshape(-1, x.shape[-1])
    channel = jnp.broadcast_to(jnp.arange(x.shape[-1]), flat.shape)
    seen = jnp.zeros((LEVELS, x.shape[-1]), jnp.int32).at[flat, channel].add(1)
    brightest = jnp.take_along_axis(seen, jnp.max(flat, 0)[None], 0)[0]
    step = (len(flat) - brightest) // 255
    below = jnp.cumsum(seen, 0) - seen
    new = (step // 2 + below) // jnp.maximum(step, 1)
    return jnp.where(step > 0, jnp.minimum(new, 255).astype(same.dtype), same)


def places(x: jax.Array, which: jax.Array, level: Any) -> tuple[jax.Array, jax.Array]:
    """Rows and columns [H, W] that a motion reads x at; turns are about the middle, shears about a corner."""
    height, width = x.shape[:2]
    row, column = jnp.meshgrid(jnp.arange(height) + 0.5, jnp.arange(width) + 0.5, indexing="ij")
    down, right = row - height / 2, column - width / 2
    turn = jnp.trunc(level * 30 / 10) * jnp.pi / 180
    sine, cosine = jnp.sin(turn), jnp.cos(turn)
    shear, zero = level * 0.3 / 10, jnp.zeros_like(row)
    moves = jnp.stack(
        [
            jnp.stack([cosine * down + sine * right - down, cosine * right - sine * down - right]),
            jnp.stack([zero, shear * row]),
            jnp.stack([shear * column, zero]),
            jnp.stack([zero, zero + jnp.trunc(level * width / 30)]),
            jnp.stack([zero + jnp.trunc(level * height / 30), zero]),
        ]
    )
    move = moves[jnp.clip(which, 0, len(MOTIONS) - 1)]
    return row - 0.5 + move[0], column - 0.5 + move[1]
