"""A network around one region, reduced to what is not linear there: the neurons that may be on or off, and the input.

Reference: Wang et al., NeurIPS 2021, arXiv:2103.06624 (beta-CROWN: what a split assumes as a multiplier in the backward
pass); Bunel et al., JMLR 2020, arXiv:1909.06588 (the score of a split); De Palma et al., arXiv:2104.06718 (the best few
by score are tried). ReLUs that are always on or always off are part of the affine maps between the others, so all
domains of a region share a few small matrices, and a backward pass is one matrix product for each layer.

A row is a linear function: column 0 its constant, then D coefficients of the input, then those of the neurons.
Groups of neurons are in an order in which each is affine in the input and the groups before.
Shapes: N neurons, D inputs, W = 1 + D + N columns, B domains, P problems of K rows each.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from robustbench_jax.ops.adam import Moments
from robustbench_jax.ops.bounds.regions import Region
from robustbench_jax.types import record

DECAY = 0.95  # of the step, at each step
MOST = 1e4  # a multiplier is at most so large


@record
class Reduced:
    """matrices: what each group of n neurons is made of, [n, columns before it]. below, above, below_offset,
    above_offset [N]: lines of each neuron; free [N]: whether it is a ReLU, whose slope below is any from 0 to 1 and
    which may be split; low, high [N]: of its input. region: of flat inputs.
    """

    matrices: list[jax.Array]
    below: jax.Array
    below_offset: jax.Array
    above: jax.Array
    above_offset: jax.Array
    free: jax.Array
    low: jax.Array
    high: jax.Array
    region: Region


class Weights(NamedTuple):
    """alpha [B, N]: slopes from 0 to 1; beta [B, N]: multipliers of at least 0; mix [B, K]: shares of the rows."""

    alpha: jax.Array
    beta: jax.Array
    mix: jax.Array


class Carried(NamedTuple):
    """lower [B]; seen [B, N]: coefficients of the neurons on the way; at_input [B, D]."""

    lower: jax.Array
    seen: jax.Array
    at_input: jax.Array


def carried(net: Reduced, rows: jax.Array, sign: jax.Array, alpha: jax.Array, beta: jax.Array) -> Carried:
    """Rows [B, W] carried back to the input, where neurons of sign 1 are on and those of sign -1 off."""
    sign = sign.astype(rows.dtype)
    split, on = sign != 0, jnp.maximum(sign, 0)
    below = jnp.where(split, on, jnp.where(net.free, alpha, net.below))
    above = jnp.where(split, on, net.above)
    lowest, highest = (jnp.where(split, 0, offset) for offset in (net.below_offset, net.above_offset))
    assumed = beta * sign
    offset, seen, first = 0.0, [], rows.shape[1] - sign.shape[1]
    for matrix in reversed(net.matrices):
        before = matrix.shape[1]
        part = slice(before - first, before - first + len(matrix))
        a, rows = rows[:, before:], rows[:, :before]
        positive, negative = jnp.maximum(a, 0), jnp.minimum(a, 0)
        offset += jnp.sum(positive * lowest[:, part] + negative * highest[:, part], -1)
        rows = rows + (positive * below[:, part] + negative * above[:, part] - assumed[:, part]) @ matrix
        seen.insert(0, a)
    seen = jnp.concatenate(seen, -1) if seen else sign
    return Carried(rows[:, 0] + offset + net.region.least(rows[:, 1:]), seen, rows[:, 1:])


def mixed(rows: jax.Array, problem: jax.Array, mix: jax.Array) -> jax.Array:
    """[B, W]: the mean of each problem's rows [P, K, W] with these shares; at most their largest everywhere."""
    return jnp.einsum("bk,bkw->bw", mix, rows[problem])


def ascended(
    net: Reduced,
    rows: jax.Array,
    problem: jax.Array,
    sign: jax.Array,
    start: Weights,
    enough: jax.Array,
    steps: Any,
    rate: Any,
) -> tuple[jax.Array, Weights, Carried]:
    """(best bounds [B], last weights, what they give) of at most `steps` steps of Adam, until all bounds are enough."""

    def of(weights):
        return carried(net, mixed(rows, problem, weights.mix), sign, weights.alpha, weights.beta)

    def total(weights):
        lower = of(weights).lower
        return jnp.sum(lower), lower

    def step(state):
        t, weights, moments, best = state
        gradient, lower = jax.grad(total, has_aux=True)(weights)
        moments = jax.tree.map(lambda m, g: m.seen(g), moments, gradient, is_leaf=_is_moments)
        length = rate * DECAY ** jnp.asarray(t, rows.dtype)
        weights = jax.tree.map(lambda m, w: w + length * m.direction, moments, weights, is_leaf=_is_moments)
        return t + 1, feasible(weights), moments, jnp.fmax(best, lower)

    def going_on(state):
        return (state[0] < steps) & ~jnp.all(state[3] > enough)

    moments = jax.tree.map(Moments.zero, start)
    nothing = jnp.full(len(sign), -jnp.inf, rows.dtype)
    _, weights, _, best = jax.lax.while_loop(going_on, step, (0, start, moments, nothing))
    last = of(weights)
    return jnp.fmax(best, last.lower), weights, last


def feasible(weights: Weights) -> Weights:
    mix = jnp.maximum(weights.mix, 1e-6)
    return Weights(
        jnp.clip(weights.alpha, 0, 1), jnp.clip(weights.beta, 0, MOST), mix / jnp.sum(mix, -1, keepdims=True)
    )


def chosen(
    net: Reduced, rows: jax.Array, sign: jax.Array, alpha: jax.Array, beta: jax.Array, enough: jax.Array, tried: int
) -> jax.Array:
    """int [B, tried]: the neurons to split, the best first, of those that the lines cost most; N where none is left.

    The best is the one whose worse half has the best bound, neither half counting for more than enough [B].
    """
    count, neurons = sign.shape
    found = carried(net, rows, sign, alpha, beta)
    open_ = net.free & (sign == 0)
    above = -jnp.minimum(found.seen, 0) * net.above_offset
    below = jnp.maximum(found.seen, 0) * jnp.maximum(alpha * -net.low, (1 - alpha) * net.high)
    score = jnp.where(open_, above + below / 2 + jnp.finfo(rows.dtype).tiny, -1.0)
    score, which = jax.lax.top_k(score, tried)
    if tried == 1:
        return jnp.where(score > 0, which, neurons)
    sides = jnp.array([-1, 1], sign.dtype)
    halves = jnp.broadcast_to(sign[:, None, None], (count, tried, 2, neurons))
    at = jax.nn.one_hot(which, neurons, dtype=bool)[:, :, None]
    halves = jnp.where(at, sides[:, None], halves).reshape(-1, neurons)
    same = [jnp.repeat(leaf, 2 * tried, 0) for leaf in (rows, alpha, beta)]
    lower = carried(net, same[0], halves, *same[1:]).lower.reshape(count, tried, 2)
    gain = jnp.maximum(jnp.minimum(lower, enough[:, None, None]) - found.lower[:, None, None], 0)
    value = jnp.where(score > 0, jnp.min(gain, -1) + 0.1 * jnp.max(gain, -1), -1.0)
    order = jnp.argsort(-value, -1)
    return jnp.take_along_axis(jnp.where(score > 0, which, neurons), order, -1)


def _is_moments(leaf: Any) -> bool:
    return isinstance(leaf, Moments)
