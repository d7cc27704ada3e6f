"""Domains of branch and bound: a region in which some ReLUs are known to be on or off.

Reference: Bunel et al., JMLR 2020, arXiv:1909.06588 (branch and bound, the score of a split); Wang et al., NeurIPS
2021, arXiv:2103.06624 (beta-CROWN: what a split assumes as a multiplier in the backward pass). The ReLUs of a network
are numbered through, layer after layer; a domain lists those that are split and how.
Shapes: K rows, L splits, C classes, D input shape, N all ReLUs. One domain.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.ops.bounds import linear, slopes
from robustbench_jax.ops.bounds.graph import Graph
from robustbench_jax.ops.bounds.regions import Bounds, Region


class Bounded(NamedTuple):
    """lower: of the largest of the rows. split: the ReLU to split next, -1 where all are decided. x [D]: where the
    linear bound is least, a point to try.
    """

    lower: jax.Array
    split: jax.Array
    x: jax.Array


def relus(graph: Graph) -> dict[int, int]:
    """{operation: node that it switches on and off}, of ReLUs and maxima, in order."""
    return {i: n.inputs[-1] for i, n in enumerate(graph.nodes) if n.kind in ("relu", "maximum")}


def signs(graph: Graph, which: jax.Array, how: jax.Array) -> dict[int, jax.Array]:
    """{node: -1, 0 or 1 [S]} of the splits `which` [L], flat numbers with -1 for none, and `how` [L]."""
    inputs = sorted(set(relus(graph).values()))
    sizes = [int(np.prod(graph.nodes[k].shape)) for k in inputs]
    flat = jnp.zeros(sum(sizes)).at[jnp.where(which < 0, sum(sizes), which)].set(how, mode="drop")
    parts = jnp.split(flat, np.cumsum(sizes)[:-1])
    return {k: part.reshape(graph.nodes[k].shape) for k, part in zip(inputs, parts, strict=True)}


def clipped(known: Mapping[int, Bounds], splits: Mapping[int, jax.Array]) -> dict[int, Bounds]:
    """The bounds with what the splits say."""
    return dict(known) | {
        k: Bounds(
            jnp.where(s > 0, jnp.maximum(known[k].low, 0), known[k].low),
            jnp.where(s < 0, jnp.minimum(known[k].high, 0), known[k].high),
        )
        for k, s in splits.items()
    }


def bounded(
    graph: Graph,
    region: Region,
    known: Mapping[int, Bounds],
    rows: jax.Array,
    offsets: jax.Array,
    alpha: Mapping[int, jax.Array],
    which: jax.Array,
    how: jax.Array,
    steps: Any,
    rate: Any,
) -> Bounded:
    """Bounds max_k(rows[k] . logits + offsets[k]) from below in a domain; known: bounds in the whole region.

    alpha {ReLU: [K, S]}: the slopes to begin with.
    """
    splits = signs(graph, which, how)
    inside = clipped(known, splits)
    beta = {k: jnp.zeros((len(rows), *s.shape), rows.dtype) for k, s in splits.items()}
    weights = {"alpha": dict(alpha), "beta": beta}
    found, weights = slopes.optimised(
        graph, graph.output, rows, inside, region, steps, rate, weights=weights, splits=splits
    )
    best = jnp.argmax(found + offsets)
    one = jax.tree.map(lambda leaf: leaf[best][None], weights)
    split, x = _next(graph, rows[best][None], inside, region, one, splits)
    return Bounded((found + offsets)[best], split, x)


def _next(graph, rows, known, region, weights, splits) -> tuple[jax.Array, jax.Array]:
    """(the ReLU whose lines cost the bound most, the point of least value), for one row."""
    seen: dict[int, jax.Array] = {}

    def watch(number: int, a: jax.Array) -> jax.Array:
        seen[number] = a[0]
        return a - weights["beta"][number] * splits[number] if number in splits else a

    lines = linear.lines_of(graph, known, region.box, weights["alpha"])
    coefficients, _ = linear.carried(graph, graph.output, rows, lines, extra=watch)
    scores: dict[int, jax.Array] = {k: jnp.zeros(graph.nodes[k].shape) for k in splits}
    for number, k in relus(graph).items():
        low, high = known[k]
        unstable = (low < 0) & (high > 0)
        above = -jnp.minimum(seen[number], 0) * lines[number].high_offset
        slope = lines[number].low[-1][0]
        below = jnp.maximum(seen[number], 0) * jnp.maximum(slope * -low, (1 - slope) * high)
        scores[k] = scores[k] + jnp.where(unstable, above + below / 2 + jnp.finfo(rows.dtype).tiny, 0.0)
    flat = jnp.concatenate([scores[k].ravel() for k in sorted(scores)])
    return jnp.where(jnp.max(flat) > 0, jnp.argmax(flat), -1), region.lowest(coefficients[0][0])
