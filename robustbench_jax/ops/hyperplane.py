"""The nearest point of a hyperplane inside the box [0, 1]: what FAB steps to.

`step(p, z, w, c)` is the smallest d in the p-norm that lowers <w, z + d> by c with z + d in the box. In Linf and L2 it
is d = -sign(w) min(t * a, room) for one scalar t, with a = 1 or |w|; what it lowers is concave and piecewise linear in
t, so Newton's method from t = 0 comes from below and is exact in the last piece. In L1 the entries with the largest
|w| move first; their threshold is found by bisection of its bits. No sorting: every entry is read once an iteration.
Reference for the problem: Croce & Hein, ICML 2020, arXiv:1907.02044, section 3 and appendix.
Shapes: D entries, any; one example.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.ops.sums import inner, total

NEWTON = 12


def step(p: float, z: jax.Array, w: jax.Array, c: jax.Array) -> jax.Array:
    """d [D] for p in (inf, 2, 1). Where the box does not reach the hyperplane, the corner nearest to it."""
    w, c = jnp.where(c < 0, -w, w), jnp.abs(c)
    room = jnp.where(w > 0, z, 1 - z)
    size = _greedy(jnp.abs(w), room, c) if p == 1 else _capped(jnp.abs(w), room, c, jnp.abs(w) if p == 2 else None)
    return -jnp.sign(w) * size


def _capped(w: jax.Array, room: jax.Array, c: jax.Array, slopes: jax.Array | None) -> jax.Array:
    """min(t * slopes, room) with sum(w * it) = c; slopes None: all 1."""
    slopes = jnp.ones_like(w) if slopes is None else slopes

    def newton(_, t):
        free = t * slopes < room
        lowered = inner(w, jnp.minimum(t * slopes, room))
        rate = inner(w, jnp.where(free, slopes, 0.0))
        return t + jnp.where(rate > 0, jnp.maximum(c - lowered, 0.0) / jnp.where(rate > 0, rate, 1.0), 0.0)

    t = jax.lax.fori_loop(0, NEWTON, newton, jnp.zeros_like(c), unroll=True)
    reachable = inner(w, room) > c
    return jnp.where(reachable, jnp.minimum(t * slopes, room), jnp.where(w > 0, room, 0.0))


def _greedy(w: jax.Array, room: jax.Array, c: jax.Array) -> jax.Array:
    """All of `room` where w is above a threshold, a share of it at the threshold, none below."""
    bits = jax.lax.bitcast_convert_type(w, jnp.int32)  # ordered as the floats, which are not negative
    gain = w * room

    def halve(_, bounds):
        low, high = bounds
        middle = low + (high - low) // 2
        enough = total(jnp.where(bits >= middle, gain, 0.0)) >= c
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    last, _ = jax.lax.fori_loop(0, 31, halve, (jnp.int32(0), jnp.int32(jnp.iinfo(jnp.int32).max)))
    above, at = bits > last, bits == last
    missing = c - total(jnp.where(above, gain, 0.0))
    share = jnp.clip(missing / jnp.maximum(total(jnp.where(at, gain, 0.0)), 1e-30), 0.0, 1.0)
    return jnp.where(w > 0, jnp.where(above, room, jnp.where(at, share * room, 0.0)), 0.0)
