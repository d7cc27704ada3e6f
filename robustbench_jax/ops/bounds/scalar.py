"""Scalar functions as terms, and what can be proved of them on an interval.

A term is the expression that a model applies to each entry of an activation: tanh(z), z * Phi(z), where(z > 0, z,
expm1(z)). Whatever it is made of, `enclose` gives an interval of its values and of its derivative on an interval, by
interval arithmetic on the term and on its derivative; `line` bounds term - slope * z on a grid of segments by the mean value
theorem. So every activation has sound bounds, and none needs a rule of its own.

Segments are open: what a comparison decides on the inside of a segment is decided there; the grid's points are
evaluated themselves. A function that jumps inside a segment has infinite slope there.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

HALF = 16  # segments on either side of the middle of an interval, or of zero where that lies inside
TANGENTS = 4  # every so many points of the grid give a slope to try
INF = jnp.inf


@dataclass(frozen=True)
class Source:
    """The entry itself."""


@dataclass(frozen=True, eq=False)
class Known:
    """A number or array that does not depend on the image."""

    value: Any


@dataclass(frozen=True, eq=False)
class Term:
    """A JAX primitive applied to terms."""

    primitive: Any
    params: tuple[tuple[str, Any], ...]
    arguments: tuple[Any, ...]


class Range(NamedTuple):
    """Values between low and high, derivatives by the source between falling and rising."""

    low: Any
    high: Any
    falling: Any
    rising: Any


class Choice(NamedTuple):
    """A comparison: whether it may be false, whether it may be true."""

    false: Any
    true: Any


def value(term: Any, z: jax.Array) -> jax.Array:
    """The term at z, entry by entry."""

    def visit(part: Any, done: dict) -> Any:
        if isinstance(part, Source):
            return z
        if isinstance(part, Known):
            return part.value
        if id(part) not in done:
            arguments = [visit(a, done) for a in part.arguments]
            done[id(part)] = part.primitive.bind(*_alike(arguments), **dict(part.params))
        return done[id(part)]

    return visit(term, {})


def _alike(arguments: list) -> list:
    """Known arrays broadcast to the others' shape: a grid in front is longer than what the model had."""
    shape = jnp.broadcast_shapes(*(jnp.shape(a) for a in arguments))
    return [a if jnp.shape(a) in ((), shape) else jnp.broadcast_to(a, shape) for a in arguments]


def is_affine(term: Any) -> bool:
    """Whether a term is a line, by its operations."""
    if isinstance(term, Source | Known):
        return True
    name, arguments = str(term.primitive), term.arguments
    depends = [not _known(a) for a in arguments]
    linear = name in ("add", "sub", "neg", "add_any", "copy") or (name == "mul" and sum(depends) < 2)
    return (linear or (name == "div" and not depends[1])) and all(map(is_affine, arguments))


def _known(term: Any) -> bool:
    return isinstance(term, Known) or (isinstance(term, Term) and all(map(_known, term.arguments)))


def enclose(term: Any, low: jax.Array, high: jax.Array) -> Range:
    """The ranges of a term's values and derivatives for z strictly between low and high."""

    def visit(part: Any, done: dict) -> Any:
        if isinstance(part, Source):
            return Range(low, high, jnp.ones_like(low), jnp.ones_like(low))
        if isinstance(part, Known):
            constant = jnp.asarray(part.value)
            if constant.dtype == bool:
                return Choice(~constant, constant)
            return Range(constant, constant, jnp.zeros_like(low), jnp.zeros_like(low))
        if id(part) not in done:
            rule = RULES[str(part.primitive)]
            same = len(part.arguments) > 1 and part.arguments[0] is part.arguments[1]
            done[id(part)] = rule(*(visit(a, done) for a in part.arguments), same=same, **dict(part.params))
        return done[id(part)]

    return visit(term, {})


class Grid(NamedTuple):
    """Points [G, ...] of an interval and the term there; ranges of the segments between them."""

    points: jax.Array
    values: jax.Array
    slopes: jax.Array
    ranges: Range


def grid(term: Any, low: jax.Array, high: jax.Array) -> Grid:
    """The grid of low <= z <= high: segments of equal length up to its middle, or to zero, and from there."""
    middle = jnp.where((low < 0) & (high > 0), 0.0, (low + high) / 2)
    share = jnp.arange(HALF + 1, dtype=low.dtype).reshape(-1, *[1] * low.ndim) / HALF
    first, second = low + share * (middle - low), middle + share * (high - middle)
    points = jnp.concatenate([first[:-1], second[:-1], high[None]])
    values, slopes = jax.jvp(lambda z: value(term, z), (points,), (jnp.ones_like(points),))
    return Grid(points, values, slopes, enclose(term, points[:-1], points[1:]))


def offset(found: Grid, slope: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(least, greatest) of term - slope * z over the grid's interval: slope * z + least lies below the term."""
    tilted = found.values - slope * found.points
    left, right, width = tilted[:-1], tilted[1:], found.points[1:] - found.points[:-1]
    low, high, falling, rising = found.ranges
    ends = slope * found.points[:-1], slope * found.points[1:]
    down, up = jnp.minimum(falling - slope, 0), jnp.maximum(rising - slope, 0)
    least = jnp.maximum(low - jnp.maximum(*ends), jnp.maximum(left + _times(down, width), right - _times(up, width)))
    down, up = jnp.maximum(rising - slope, 0), jnp.minimum(falling - slope, 0)
    most = jnp.minimum(high - jnp.minimum(*ends), jnp.minimum(left + _times(down, width), right - _times(up, width)))
    return jnp.minimum(least.min(0), tilted.min(0)), jnp.maximum(most.max(0), tilted.max(0))


def interval(term: Any, low: jax.Array, high: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The least and the greatest value of a term for low <= z <= high."""
    return offset(grid(term, low, high), jnp.zeros_like(low))


def lines(term: Any, low: jax.Array, high: jax.Array) -> tuple[tuple, tuple]:
    """((slope, offset) below, (slope, offset) above) the term for low <= z <= high.

    Of the chord, the constant and some tangents, each with the best sound offset, the one nearest at the middle.
    """
    found, middle = grid(term, low, high), (low + high) / 2
    chord = (found.values[-1] - found.values[0]) / jnp.where(high > low, high - low, 1.0)
    slopes = [chord, jnp.zeros_like(chord), *found.slopes[::TANGENTS]]
    below = above = None
    for slope in slopes:
        slope = jnp.where(jnp.isfinite(slope), slope, 0.0)
        least, most = offset(found, slope)
        below = _better(below, (slope, least), lambda s, o: s * middle + o)
        above = _better(above, (slope, most), lambda s, o: -s * middle - o)
    return below, above


def _better(best: tuple | None, new: tuple, score: Callable) -> tuple:
    if best is None:
        return new
    wins = score(*new) > score(*best)
    return tuple(jnp.where(wins, n, b) for n, b in zip(new, best, strict=True))


def _times(a: Any, b: Any) -> jax.Array:
    """a * b with 0 * inf = 0."""
    return jnp.where((a == 0) | (b == 0), 0.0, a * b)


# Interval arithmetic: one rule for each primitive.


def _product(a: Range, b: Range) -> tuple[jax.Array, jax.Array]:
    """The hull of values of a times values of b."""
    ends = [_times(x, y) for x in a[:2] for y in b[:2]]
    return jnp.minimum(jnp.minimum(*ends[:2]), jnp.minimum(*ends[2:])), jnp.maximum(
        jnp.maximum(*ends[:2]), jnp.maximum(*ends[2:])
    )


def _chain(derivative: tuple, inside: Range) -> tuple[jax.Array, jax.Array]:
    return _product(Range(*derivative, 0, 0), Range(inside.falling, inside.rising, 0, 0))


def _rising(function: Callable, derivative: Callable) -> Callable:
    """The rule of an increasing function; derivative(low, high) -> its least and greatest."""

    def rule(a: Range, **_: Any) -> Range:
        return Range(function(a.low), function(a.high), *_chain(derivative(a.low, a.high), a))

    return rule


def _bell(derivative: Callable) -> Callable:
    """Least and greatest, on an interval, of a derivative that is even and falls away from zero."""

    def bounds(low: jax.Array, high: jax.Array) -> tuple[jax.Array, jax.Array]:
        far = jnp.maximum(jnp.abs(low), jnp.abs(high))
        near = jnp.where((low < 0) & (high > 0), 0.0, jnp.minimum(jnp.abs(low), jnp.abs(high)))
        return derivative(far), derivative(near)

    return bounds


def _add(a: Range, b: Range, **_: Any) -> Range:
    return Range(*(x + y for x, y in zip(a, b, strict=True)))


def _neg(a: Range, **_: Any) -> Range:
    return Range(-a.high, -a.low, -a.rising, -a.falling)


def _sub(a: Range, b: Range, same: bool = False, **_: Any) -> Range:
    zero = jnp.zeros_like(a.falling)
    return Range(jnp.zeros_like(a.low), jnp.zeros_like(a.low), zero, zero) if same else _add(a, _neg(b))


def _mul(a: Range, b: Range, same: bool = False, **_: Any) -> Range:
    if same:
        return _integer_pow(a, y=2)
    first = _product(Range(a.falling, a.rising, 0, 0), b)
    second = _product(a, Range(b.falling, b.rising, 0, 0))
    return Range(*_product(a, b), first[0] + second[0], first[1] + second[1])


def _div(a: Range, b: Range, same: bool = False, **_: Any) -> Range:
    return _mul(a, _integer_pow(b, y=-1))


def _integer_pow(a: Range, y: int, **_: Any) -> Range:
    return Range(*_power(a, y), *_chain(tuple(y * p for p in _ordered(_power(a, y - 1), y)), a))


def _ordered(bounds: tuple, sign: int) -> tuple:
    return bounds if sign > 0 else bounds[::-1]


def _power(a: Range, y: int) -> tuple[jax.Array, jax.Array]:
    """Values of z ** y."""
    if y == 0:
        return jnp.ones_like(a.low), jnp.ones_like(a.low)
    low, high = jnp.asarray(a.low), jnp.asarray(a.high)
    inside = (low < 0) & (high > 0)
    one, two = jax.lax.integer_pow(low, y), jax.lax.integer_pow(high, y)
    least, most = jnp.minimum(one, two), jnp.maximum(one, two)
    if y > 0:
        return (jnp.where(inside, 0.0, least), most) if y % 2 == 0 else (least, most)
    touches = (low <= 0) & (high >= 0)
    least = jnp.where(touches, -INF if y % 2 else least, least)
    return least, jnp.where(touches, INF, most)


def _abs(a: Range, **_: Any) -> Range:
    inside = (a.low < 0) & (a.high > 0)
    one, two = jnp.abs(a.low), jnp.abs(a.high)
    derivative = jnp.where(a.low >= 0, 1.0, -1.0), jnp.where(a.high <= 0, -1.0, 1.0)
    return Range(jnp.where(inside, 0.0, jnp.minimum(one, two)), jnp.maximum(one, two), *_chain(derivative, a))


def _sign(a: Range, **_: Any) -> Range:
    jump = jnp.where((a.low < 0) & (a.high > 0), INF, 0.0)
    return Range(jnp.sign(a.low), jnp.sign(a.high), *_chain((-jump, jump), a))


def _wave(function: Callable, derivative: Callable) -> Callable:
    """sin and cos: by how far they may get from the middle."""

    def near(of: Callable, a: Range) -> tuple[jax.Array, jax.Array]:
        centre, reach = of((a.low + a.high) / 2), (a.high - a.low) / 2
        return jnp.maximum(centre - reach, -1.0), jnp.minimum(centre + reach, 1.0)

    def rule(a: Range, **_: Any) -> Range:
        return Range(*near(function, a), *_chain(near(derivative, a), a))

    return rule


def _max(a: Range, b: Range, **_: Any) -> Range:
    first, second = a.low >= b.high, b.low >= a.high
    hull = jnp.minimum(a.falling, b.falling), jnp.maximum(a.rising, b.rising)
    slopes = (jnp.where(first, x, jnp.where(second, y, h)) for x, y, h in zip(a[2:], b[2:], hull, strict=True))
    return Range(jnp.maximum(a.low, b.low), jnp.maximum(a.high, b.high), *slopes)


def _min(a: Range, b: Range, **_: Any) -> Range:
    return _neg(_max(_neg(a), _neg(b)))


def _clamp(low: Range, a: Range, high: Range, **_: Any) -> Range:
    return _min(_max(a, low), high)


def _greater(a: Range, b: Range, same: bool = False, **_: Any) -> Choice:
    """a > b, and a >= b: on open segments they are decided alike."""
    constant = (a.low == a.high) & (b.low == b.high)
    if same:
        raise NotImplementedError
    return Choice(jnp.where(constant, ~(a.low > b.low), a.low < b.high), a.high > b.low)


def _equal(a: Range, b: Range, same: bool = False, **_: Any) -> Choice:
    if same:
        return Choice(jnp.zeros_like(a.low, bool), jnp.ones_like(a.low, bool))
    return Choice(jnp.ones_like(a.low, bool), (a.low < b.high) & (a.high > b.low))


def _not(a: Choice, **_: Any) -> Choice:
    return Choice(a.true, a.false)


def _and(a: Choice, b: Choice, **_: Any) -> Choice:
    return Choice(a.false | b.false, a.true & b.true)


def _or(a: Choice, b: Choice, **_: Any) -> Choice:
    return Choice(a.false & b.false, a.true | b.true)


def _select(which: Choice, *cases: Range, **_: Any) -> Range:
    """An undecided choice may jump."""
    below, above = cases
    open_, true = which.false & which.true, which.true
    low = jnp.where(open_, jnp.minimum(below.low, above.low), jnp.where(true, above.low, below.low))
    high = jnp.where(open_, jnp.maximum(below.high, above.high), jnp.where(true, above.high, below.high))
    falling = jnp.where(open_, -INF, jnp.where(true, above.falling, below.falling))
    return Range(low, high, falling, jnp.where(open_, INF, jnp.where(true, above.rising, below.rising)))


def _exponent(a: Range, b: Range, **_: Any) -> Range:
    """a ** b for a constant b and a >= 0."""
    p = b.low
    ends = jnp.power(jnp.maximum(a.low, 0.0), p), jnp.power(a.high, p)
    slopes = p * jnp.power(jnp.maximum(a.low, 0.0), p - 1), p * jnp.power(a.high, p - 1)
    derivative = jnp.minimum(*slopes), jnp.maximum(*slopes)
    outside = a.low < 0
    low, high = (jnp.where(outside, s * INF, e) for s, e in ((-1, jnp.minimum(*ends)), (1, jnp.maximum(*ends))))
    return Range(low, high, *_chain(tuple(jnp.where(outside, s * INF, d) for s, d in zip((-1, 1), derivative)), a))


def _same(a: Any, **_: Any) -> Any:
    return a


def _logistic_slope(z: jax.Array) -> jax.Array:
    return jax.nn.sigmoid(z) * jax.nn.sigmoid(-z)


def _domain(function: Callable) -> Callable:
    """With values outside of the domain, which may be anything, pulled to its edge: the caller's range is infinite."""
    return lambda z: function(jnp.maximum(z, 0.0))


RULES: dict[str, Callable] = {
    "add": _add,
    "add_any": _add,
    "sub": _sub,
    "neg": _neg,
    "mul": _mul,
    "div": _div,
    "integer_pow": _integer_pow,
    "square": lambda a, **_: _integer_pow(a, y=2),
    "pow": _exponent,
    "abs": _abs,
    "sign": _sign,
    "max": _max,
    "min": _min,
    "clamp": _clamp,
    "exp": _rising(jnp.exp, lambda low, high: (jnp.exp(low), jnp.exp(high))),
    "exp2": _rising(jnp.exp2, lambda low, high: tuple(jnp.log(2.0) * jnp.exp2(e) for e in (low, high))),
    "expm1": _rising(jnp.expm1, lambda low, high: (jnp.exp(low), jnp.exp(high))),
    "log": _rising(_domain(jnp.log), lambda low, high: (1 / jnp.maximum(high, 0), 1 / jnp.maximum(low, 0))),
    "log1p": _rising(
        lambda z: jnp.log1p(jnp.maximum(z, -1.0)),
        lambda low, high: (1 / jnp.maximum(1 + high, 0), 1 / jnp.maximum(1 + low, 0)),
    ),
    "sqrt": _rising(_domain(jnp.sqrt), lambda low, high: (0.5 / _domain(jnp.sqrt)(high), 0.5 / _domain(jnp.sqrt)(low))),
    "tanh": _rising(jnp.tanh, _bell(lambda z: 1 / jnp.cosh(z) ** 2)),
    "logistic": _rising(jax.nn.sigmoid, _bell(_logistic_slope)),
    "erf": _rising(jax.scipy.special.erf, _bell(lambda z: 2 / jnp.sqrt(jnp.pi) * jnp.exp(-z * z))),
    "sin": _wave(jnp.sin, jnp.cos),
    "cos": _wave(jnp.cos, lambda z: -jnp.sin(z)),
    "ge": _greater,
    "gt": _greater,
    "le": lambda a, b, **o: _greater(b, a, **o),
    "lt": lambda a, b, **o: _greater(b, a, **o),
    "eq": _equal,
    "ne": lambda a, b, **o: _not(_equal(a, b, **o)),
    "not": _not,
    "and": _and,
    "or": _or,
    "select_n": _select,
    "convert_element_type": _same,
    "copy": _same,
}
RULES["rsqrt"] = lambda a, **_: _integer_pow(RULES["sqrt"](a), y=-1)
RULES["erfc"] = lambda a, **_: _sub(
    Range(1.0, 1.0, jnp.zeros_like(a.falling), jnp.zeros_like(a.falling)), RULES["erf"](a)
)
PREDICATES = {"ge", "gt", "le", "lt", "eq", "ne", "not", "and", "or"}
NONLINEAR = {name for name in RULES if name not in ("add", "add_any", "sub", "neg")}
