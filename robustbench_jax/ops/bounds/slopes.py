"""Linear bounds with the best lines: slopes below unstable ReLUs, by ascent.

Reference: Xu et al., ICLR 2021, arXiv:2011.13824 (alpha-CROWN). Every slope from 0 to 1 gives a bound, so the best one
met on the way counts.
Shapes: R rows; node shapes S. One example; each row has slopes of its own.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from robustbench_jax.ops.adam import Moments
from robustbench_jax.ops.bounds import linear
from robustbench_jax.ops.bounds.graph import Graph
from robustbench_jax.ops.bounds.regions import Bounds, Region

DECAY = 0.97  # of the step, at each step

Slopes = dict[int, jax.Array]


def initial(graph: Graph, start: int, known: Mapping[int, Bounds], rows: int) -> Slopes:
    """CROWN's slopes by ReLU, each [R, S]."""
    return {
        number: jnp.broadcast_to(linear.relu_lines(known[node.inputs[-1]], None)[0], (rows, *node.shape))
        for number, node in enumerate(graph.nodes[:start])
        if node.kind in ("relu", "maximum")
    }


def optimised(
    graph: Graph,
    start: int,
    rows: jax.Array,
    known: Mapping[int, Bounds],
    region: Region,
    steps: Any,
    rate: Any,
    shares: Mapping[int, jax.Array] | None = None,
) -> tuple[jax.Array, Slopes]:
    """(best bounds [R] of rows [R, S] of node `start`, last slopes) of `steps` steps of Adam from CROWN's slopes.

    shares: as `linear.least` says; bounds are [R, M] then.
    """

    def total(slopes):
        lines = linear.lines_of(graph, known, region.box, slopes)
        found = linear.least(graph, start, rows, lines, region, shares=shares)
        return jnp.sum(found), found

    def step(t, state):
        slopes, moments, best = state
        gradient, found = jax.grad(total, has_aux=True)(slopes)
        moments = jax.tree.map(lambda m, g: m.seen(g), moments, gradient, is_leaf=_is_moments)
        length = rate * DECAY ** jnp.asarray(t, rows.dtype)
        moved = jax.tree.map(lambda m, w: w + length * m.direction, moments, slopes, is_leaf=_is_moments)
        return jax.tree.map(lambda w: jnp.clip(w, 0.0, 1.0), moved), moments, jnp.fmax(best, found)

    slopes = initial(graph, start, known, len(rows))
    moments = jax.tree.map(Moments.zero, slopes)
    nothing = jnp.full((len(rows), *(shares[0].shape[:1] if shares else ())), -jnp.inf, rows.dtype)
    slopes, _, best = jax.lax.fori_loop(0, steps, step, (slopes, moments, nothing))
    return jnp.fmax(best, total(slopes)[1]), slopes


def _is_moments(leaf: Any) -> bool:
    return isinstance(leaf, Moments)
