"""Regions: the set of images that a bound holds for, and what a linear function is at least on it.

A region is a box, perhaps with a ball in it: all of [low, high] that is no further than eps from x in a norm. A linear
function's minimum over the box and over the ball are both at most its minimum over their intersection, so the larger of
the two is a bound; over a box alone (Linf budgets, VNN-LIB) it is the exact minimum.
Shapes: D input shape, R rows. One example.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from robustbench_jax.types import record


class Bounds(NamedTuple):
    """low <= value <= high, entry by entry."""

    low: jax.Array
    high: jax.Array


@record
class Region:
    """low, high [D]: the box. norm: "linf" for the box alone, else "l2" or "l1": the ball of radius eps at x [D]."""

    low: jax.Array
    high: jax.Array
    x: jax.Array
    eps: jax.Array
    norm: str = "linf"

    @property
    def box(self) -> Bounds:
        return Bounds(self.low, self.high)

    def least(self, a: jax.Array, shares: jax.Array | None = None) -> jax.Array:
        """[R]: lower bounds of the linear functions a [R, D] on the region; exact for a box.

        shares [M, D]: those of the parts of a that are marked, [R, M].
        """
        middle, radius = (self.low + self.high) / 2, (self.high - self.low) / 2
        found = total(a * middle, shares) - total(jnp.abs(a) * radius, shares)
        if self.norm == "linf":
            return found
        dual = jnp.sqrt(total(a * a, shares)) if self.norm == "l2" else _largest(jnp.abs(a), shares)
        return jnp.maximum(found, total(a * self.x, shares) - self.eps * dual)

    def limits(self, a: jax.Array) -> Bounds:
        """[S]: bounds of the linear functions whose coefficients a [K, S] are those of the K entries of the image.

        As `least`, by products of matrices: on CPU a reduction over the first axis takes some 25 times as long.
        """
        columns = a.reshape(len(a), -1)
        size, middle = jnp.abs(columns), ((self.low + self.high) / 2).ravel() @ columns
        radius = ((self.high - self.low) / 2).ravel() @ size
        low, high = middle - radius, middle + radius
        if self.norm != "linf":
            dual = jnp.sqrt(jnp.ones(len(a), a.dtype) @ (size * size)) if self.norm == "l2" else jnp.max(size, 0)
            there = self.x.ravel() @ columns
            low, high = jnp.maximum(low, there - self.eps * dual), jnp.minimum(high, there + self.eps * dual)
        return Bounds(low.reshape(a.shape[1:]), high.reshape(a.shape[1:]))

    def lowest(self, a: jax.Array) -> jax.Array:
        """A point [D] of the region where the linear function a [D] is small: the box's least, drawn into the ball."""
        corner = jnp.where(a > 0, self.low, self.high)
        if self.norm == "l2":
            corner = self.x - self.eps * a / jnp.maximum(jnp.sqrt(jnp.sum(a * a)), jnp.finfo(a.dtype).tiny)
        return self.inside(corner)

    def inside(self, z: jax.Array) -> jax.Array:
        """z [D] clipped to the box, then drawn towards x until it is in the ball."""
        z = jnp.clip(z, self.low, self.high)
        if self.norm == "linf":
            return z
        away = z - self.x
        size = jnp.sqrt(jnp.sum(away * away)) if self.norm == "l2" else jnp.sum(jnp.abs(away))
        return self.x + away * jnp.minimum(1.0, self.eps / jnp.maximum(size, jnp.finfo(z.dtype).tiny))


def around(x: jax.Array, budget: Any) -> Region:
    """The region of a budget `linf`, `l2` or `l1` around x [D] in [0, 1]."""
    eps = jnp.asarray(budget.eps, x.dtype)
    return Region(jnp.maximum(x - eps, 0.0), jnp.minimum(x + eps, 1.0), x, eps, budget.registered[1])


def boxed(low: jax.Array, high: jax.Array) -> Region:
    """The region of a box low <= x <= high."""
    return Region(low, high, (low + high) / 2, jnp.zeros((), low.dtype), "linf")


def total(values: jax.Array, shares: jax.Array | None = None) -> jax.Array:
    """[R]: the sums of values [R, S], or [R, M] of what is marked in them by the shares [M, S], flat."""
    if shares is None:
        return jnp.sum(values, tuple(range(1, values.ndim)))
    marked = values.reshape(len(values), 1, -1) * shares.astype(values.dtype)
    return jnp.sum(marked, -1)  # fuses with what makes the values, which a product of matrices does not


def _largest(values: jax.Array, shares: jax.Array | None) -> jax.Array:
    """[R] or [R, M]: the largest of values [R, S] that are not negative."""
    if shares is None:
        return jnp.max(values, tuple(range(1, values.ndim)))
    return jnp.max(values.reshape(len(values), 1, -1) * shares, -1)
