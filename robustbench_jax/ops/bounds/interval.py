"""Interval bound propagation: every node's least and greatest value from its inputs'.

Reference: Gowal et al., 2018, arXiv:1810.12715. One rule a kind of node; affine nodes by centre and radius.
Shapes: those of the graph's nodes. One example.
"""

from collections.abc import Callable, Mapping

import jax.numpy as jnp

from robustbench_jax.ops.bounds import scalar
from robustbench_jax.ops.bounds.graph import Graph, Node
from robustbench_jax.ops.bounds.regions import Bounds


def propagate(graph: Graph, box: Bounds, known: Mapping[int, Bounds] | None = None) -> list[Bounds]:
    """Bounds of every node. known: tighter ones of some nodes, which the others are then made from."""
    known, found = known or {}, [box]
    for number, node in enumerate(graph.nodes[1:], start=1):
        bounds = RULES[node.kind](node, *(found[i] for i in node.inputs))
        found.append(intersected(bounds, known[number]) if number in known else bounds)
    return found


def intersected(a: Bounds, b: Bounds) -> Bounds:
    return Bounds(jnp.maximum(a.low, b.low), jnp.minimum(a.high, b.high))


def _affine(node: Node, *inputs: Bounds) -> Bounds:
    if node.positive:
        return Bounds(*(node.apply(*ends) for ends in zip(*inputs, strict=True)))
    middle = node.apply(*((b.low + b.high) / 2 for b in inputs))
    radius = node.spread(*((b.high - b.low) / 2 for b in inputs))
    return Bounds(middle - radius, middle + radius)


def _relu(node: Node, z: Bounds) -> Bounds:
    return Bounds(jnp.maximum(z.low, 0), jnp.maximum(z.high, 0))


def _maximum(node: Node, a: Bounds, b: Bounds, difference: Bounds) -> Bounds:
    return Bounds(jnp.maximum(a.low, b.low), jnp.maximum(a.high, b.high))


def _elementwise(node: Node, z: Bounds) -> Bounds:
    return Bounds(*scalar.interval(node.term, z.low, z.high))


def _product(node: Node, a: Bounds, b: Bounds) -> Bounds:
    ends = [x * y for x in a for y in b]
    least, most = jnp.minimum(ends[0], ends[1]), jnp.maximum(ends[0], ends[1])
    return Bounds(jnp.minimum(least, jnp.minimum(ends[2], ends[3])), jnp.maximum(most, jnp.maximum(ends[2], ends[3])))


RULES: dict[str, Callable[..., Bounds]] = {
    "affine": _affine,
    "relu": _relu,
    "maximum": _maximum,
    "elementwise": _elementwise,
    "product": _product,
}
