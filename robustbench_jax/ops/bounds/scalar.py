"""Scalar functions as terms, and what can be proved of them on an interval.

A term is the expression that a model applies to each entry of an activation: tanh(z), z * Phi(z), where(z > 0, z,
expm1(z)). Whatever it is made of, `enclose` gives an interval of its values and of its derivative on an interval, by
interval arithmetic on the term and on its derivative (ranges.py); `lines` bounds term - slope * z on a grid of segments
by the mean value theorem. So every activation has sound bounds, and none needs a rule of its own. Segments are open:
the grid's points are evaluated themselves.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from robustbench_jax.ops.bounds.ranges import Range, enclose, times
from robustbench_jax.ops.bounds.terms import value

HALF = 16  # segments on either side of the middle of an interval, or of zero where that lies inside
TANGENTS = 4  # every so many points of the grid give a slope to try


class Grid(NamedTuple):
    """Points [G, ...] of an interval, the term there; of the segments between them, ranges and the limits of the term
    at their left and right ends, from inside.
    """

    points: jax.Array
    values: jax.Array
    left: jax.Array
    right: jax.Array
    slopes: jax.Array
    ranges: Range


def grid(term: Any, low: jax.Array, high: jax.Array) -> Grid:
    """The grid of low <= z <= high: segments of equal length up to its middle, or to zero, and from there."""
    low, high = jnp.minimum(low, high), jnp.maximum(low, high)  # rounding may have crossed them
    middle = jnp.where((low < 0) & (high > 0), 0.0, (low + high) / 2)
    share = jnp.arange(HALF + 1, dtype=low.dtype).reshape(-1, *[1] * low.ndim) / HALF
    first, second = low + share * (middle - low), middle + share * (high - middle)
    points = jnp.concatenate([first[:-1], second[:-1], high[None]])
    values, slopes = jax.jvp(lambda z: value(term, z), (points,), (jnp.ones_like(points),))
    choices: dict[int, Any] = {}
    ranges = enclose(term, points[:-1], points[1:], choices)
    ends = values[:-1], values[1:]
    if choices:  # it may jump at a point of the grid
        decided = {part: choice.settle for part, choice in choices.items()}
        ends = tuple(value(term, z, decided) for z in (points[:-1], points[1:]))
    return Grid(points, values, *ends, slopes, ranges)


def offset(found: Grid, slope: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(least, greatest) of term - slope * z over the grid's interval: slope * z + least lies below the term."""
    tilted = found.values - slope * found.points
    low, high, falling, rising = found.ranges
    ends, width = (slope * found.points[:-1], slope * found.points[1:]), found.points[1:] - found.points[:-1]
    left, right = found.left - ends[0], found.right - ends[1]
    down, up = jnp.minimum(falling - slope, 0), jnp.maximum(rising - slope, 0)
    least = jnp.maximum(low - jnp.maximum(*ends), jnp.maximum(left + times(down, width), right - times(up, width)))
    down, up = jnp.maximum(rising - slope, 0), jnp.minimum(falling - slope, 0)
    most = jnp.minimum(high - jnp.minimum(*ends), jnp.minimum(left + times(down, width), right - times(up, width)))
    return jnp.minimum(least.min(0), tilted.min(0)), jnp.maximum(most.max(0), tilted.max(0))


def interval(term: Any, low: jax.Array, high: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The least and the greatest value of a term for low <= z <= high."""
    return offset(grid(term, low, high), jnp.zeros_like(low))


def lines(term: Any, low: jax.Array, high: jax.Array) -> tuple[tuple, tuple]:
    """((slope, offset) below, (slope, offset) above) the term for low <= z <= high.

    Of the chord, the constant and some tangents, each with the best sound offset, the one nearest at the middle.
    """
    found, middle = grid(term, low, high), (low + high) / 2
    slopes, least, most = _tried(found)
    below = _taken(jnp.nanargmax(slopes * middle + least, 0), slopes, least)
    return below, _taken(jnp.nanargmin(slopes * middle + most, 0), slopes, most)


def parallel(term: Any, low: jax.Array, high: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(slope, offset below, offset above) of two lines around the term for low <= z <= high, the nearest of those."""
    slopes, least, most = _tried(grid(term, low, high))
    return _taken(jnp.nanargmin(most - least, 0), slopes, least, most)


def _tried(found: Grid) -> tuple[jax.Array, jax.Array, jax.Array]:
    """[T, ...]: slopes, of the chord, zero and some tangents, each with the least and the greatest offset."""
    width = found.points[-1] - found.points[0]
    chord = (found.values[-1] - found.values[0]) / jnp.where(width > 0, width, 1.0)
    chord = jnp.clip(chord, found.ranges.falling.min(0), found.ranges.rising.max(0))  # a short one is mostly rounding
    slopes = jnp.stack([chord, jnp.zeros_like(chord), *found.slopes[::TANGENTS]])
    slopes = jnp.where(jnp.isfinite(slopes), slopes, 0.0)
    return slopes, *jax.vmap(lambda slope: offset(found, slope))(slopes)


def _taken(which: jax.Array, *lines: jax.Array) -> tuple[jax.Array, ...]:
    """Number `which` [...] of each [T, ...], by one index: a compiler may decide a comparison that is nearly a tie
    twice, and otherwise, and then a slope would not be that of its offset.
    """
    return tuple(jnp.take_along_axis(leaf, which[None], 0)[0] for leaf in lines)
