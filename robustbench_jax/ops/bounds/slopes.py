"""Linear bounds with the best lines: slopes below unstable ReLUs, and multipliers of what a split assumes, by ascent.

Reference: alpha: Xu et al., ICLR 2021, arXiv:2011.13824; beta: Wang et al., NeurIPS 2021, arXiv:2103.06624. Every slope
from 0 to 1 and every multiplier of at least 0 gives a bound, so the best one met on the way counts.
Shapes: R rows; node shapes S. One example; each row has slopes and multipliers of its own.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from robustbench_jax.ops.adam import Moments
from robustbench_jax.ops.bounds import linear
from robustbench_jax.ops.bounds.graph import Graph
from robustbench_jax.ops.bounds.regions import Bounds, Region

DECAY = 0.97  # of the step, at each step

Weights = dict[str, dict[int, jax.Array]]


def initial(graph: Graph, start: int, known: Mapping[int, Bounds], rows: int, splits: Mapping[int, Any]) -> Weights:
    """{"alpha": CROWN's slopes by ReLU, "beta": zeros by split node}, each [R, S]."""
    alpha = {
        number: jnp.broadcast_to(linear.relu_lines(known[node.inputs[-1]], None)[0], (rows, *node.shape))
        for number, node in enumerate(graph.nodes[:start])
        if node.kind in ("relu", "maximum")
    }
    return {"alpha": alpha, "beta": {k: jnp.zeros((rows, *s.shape), known[k].low.dtype) for k, s in splits.items()}}


def bound(
    graph: Graph,
    start: int,
    rows: jax.Array,
    known: Mapping[int, Bounds],
    region: Region,
    weights: Weights,
    splits: Mapping[int, jax.Array],
    shares: Mapping[int, jax.Array] | None = None,
) -> jax.Array:
    """[R]: lower bounds of rows [R, S] of node `start` where splits[k] * (node k) >= 0; splits are -1, 0 or 1.

    shares: as `linear.least` says; [R, M] then.
    """

    def assume(number: int, a: jax.Array) -> jax.Array:
        return a - weights["beta"][number] * splits[number] if number in splits else a

    lines = linear.lines_of(graph, known, region.box, weights["alpha"])
    coefficients, offset = linear.carried(graph, start, rows, lines, extra=assume, shares=shares)
    return offset + region.least(coefficients[0], shares and shares[0])


def optimised(
    graph: Graph,
    start: int,
    rows: jax.Array,
    known: Mapping[int, Bounds],
    region: Region,
    steps: Any,
    rate: Any,
    weights: Weights | None = None,
    splits: Mapping[int, jax.Array] | None = None,
    shares: Mapping[int, jax.Array] | None = None,
) -> tuple[jax.Array, Weights]:
    """(best bounds [R] or [R, M], last weights) of `steps` steps of Adam from `weights`, or from CROWN's slopes."""
    splits = splits or {}
    weights = initial(graph, start, known, len(rows), splits) if weights is None else weights
    of = partial(bound, graph, start, rows, known, region, splits=splits, shares=shares)

    def total(weights):
        found = of(weights=weights)
        return jnp.sum(found), found

    def step(t, state):
        weights, moments, best = state
        gradient, found = jax.grad(total, has_aux=True)(weights)
        moments = jax.tree.map(lambda m, g: m.seen(g), moments, gradient, is_leaf=_is_moments)
        length = rate * DECAY ** jnp.asarray(t, rows.dtype)
        weights = jax.tree.map(lambda m, w: w + length * m.direction, moments, weights, is_leaf=_is_moments)
        return _feasible(weights), moments, jnp.fmax(best, found)

    moments = jax.tree.map(Moments.zero, weights)
    nothing = jnp.full((len(rows), *(shares[0].shape[:1] if shares else ())), -jnp.inf, rows.dtype)
    weights, _, best = jax.lax.fori_loop(0, steps, step, (weights, moments, nothing))
    return jnp.fmax(best, of(weights=weights)), weights


def _feasible(weights: Weights) -> Weights:
    alpha = {number: jnp.clip(value, 0.0, 1.0) for number, value in weights["alpha"].items()}
    return {"alpha": alpha, "beta": {number: jnp.maximum(value, 0.0) for number, value in weights["beta"].items()}}


def _is_moments(leaf: Any) -> bool:
    return isinstance(leaf, Moments)
