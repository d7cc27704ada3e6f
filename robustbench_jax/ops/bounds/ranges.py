"""Interval arithmetic on terms and their derivatives, one rule for each primitive.

Intervals are open: what a comparison decides on the inside of an interval is decided there. A function that may jump
inside has infinite slope.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from robustbench_jax.ops.bounds.terms import Known, Source

INF = jnp.inf


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

    def settle(self, found: jax.Array) -> jax.Array:
        """What was found at one end of the interval, as it is on the inside where that is decided."""
        return jnp.where(self.false != self.true, self.true, found)


def enclose(term: Any, low: jax.Array, high: jax.Array, choices: dict[int, Choice] | None = None) -> Range:
    """The ranges of a term's values and derivatives for z strictly between low and high.

    choices: filled with the comparisons in the term, by id.
    """

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
            constant = isinstance(part.arguments[-1], Known)
            options = {"same": same, "constant": constant} | dict(part.params)
            done[id(part)] = rule(*(visit(a, done) for a in part.arguments), **options)
            if choices is not None and isinstance(done[id(part)], Choice):
                choices[id(part)] = done[id(part)]
        return done[id(part)]

    return visit(term, {})


def times(a: Any, b: Any) -> jax.Array:
    """a * b with 0 * inf = 0."""
    return jnp.where((a == 0) | (b == 0), 0.0, a * b)


def _product(a: Range, b: Range) -> tuple[jax.Array, jax.Array]:
    """The hull of values of a times values of b."""
    ends = [times(x, y) for x in a[:2] for y in b[:2]]
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
    jump = jnp.where((a.low <= 0) & (a.high >= 0) & (a.low < a.high), INF, 0.0)
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


def _apart(a: Range, b: Range) -> jax.Array:
    """Whether a - b rises or falls strictly, so that on an open segment it does not take its end values."""
    strict = (a.falling - b.rising > 0) | (a.rising - b.falling < 0)
    return strict & ((a.low < a.high) | (b.low < b.high))


def _greater(a: Range, b: Range, **_: Any) -> Choice:
    """a > b, and a >= b: on open segments they are decided alike where a - b is strictly monotone."""
    apart = _apart(a, b)
    false = jnp.where(apart, a.low < b.high, a.low <= b.high)
    return Choice(false, jnp.where(apart, a.high > b.low, a.high >= b.low))


def _equal(a: Range, b: Range, same: bool = False, **_: Any) -> Choice:
    if same:
        return Choice(jnp.zeros_like(a.low, bool), jnp.ones_like(a.low, bool))
    inside, touching = (a.low < b.high) & (a.high > b.low), (a.low <= b.high) & (a.high >= b.low)
    true = jnp.where(_apart(a, b), inside, touching)
    return Choice(jnp.ones_like(true), true)


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


def _exponent(a: Range, b: Range, constant: bool = True, **_: Any) -> Range:
    """a ** b for a >= 0; where b is no constant, exp(b log a)."""
    if not constant:
        return RULES["exp"](_mul(b, RULES["log"](a)))
    p = b.low
    ends = jnp.power(jnp.maximum(a.low, 0.0), p), jnp.power(a.high, p)
    slopes = p * jnp.power(jnp.maximum(a.low, 0.0), p - 1), p * jnp.power(a.high, p - 1)
    derivative = jnp.minimum(*slopes), jnp.maximum(*slopes)
    outside = a.low < 0
    low, high = (jnp.where(outside, s * INF, e) for s, e in ((-1, jnp.minimum(*ends)), (1, jnp.maximum(*ends))))
    least, most = (jnp.where(outside, s * INF, d) for s, d in zip((-1, 1), derivative, strict=True))
    return Range(low, high, *_chain((least, most), a))


def _same(a: Any, new_dtype: Any = bool, **_: Any) -> Any:
    """Also of a comparison made a number: 0 or 1."""
    if isinstance(a, Range) or jnp.issubdtype(new_dtype, bool):
        return a
    zero, one = (
        Range(jnp.full_like(a.true, n, new_dtype), *(jnp.asarray(k, new_dtype) for k in (n, 0, 0))) for n in (0, 1)
    )
    return _select(a, zero, one)


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
RULES["erfc"] = lambda a, **_: _add(Range(1.0, 1.0, 0.0, 0.0), _neg(RULES["erf"](a)))
PREDICATES = {"ge", "gt", "le", "lt", "eq", "ne", "not", "and", "or"}
NONLINEAR = {name for name in RULES if name not in ("add", "add_any", "sub", "neg")}
