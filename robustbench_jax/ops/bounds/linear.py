"""Linear bounds: a linear function of any node, carried back to the input through lines below and above each operation.

Reference: Zhang et al., NeurIPS 2018, arXiv:1811.00866 (CROWN); for graphs Xu et al., NeurIPS 2020, arXiv:2002.12920.
A row of coefficients meets the line below an operation where it is positive and the line above where it is negative;
affine operations are transposed by `jax.vjp`. A node is processed when the rows of all of its readers are in.
Shapes: R rows; node shapes S. One example.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from robustbench_jax.ops.bounds import scalar
from robustbench_jax.ops.bounds.graph import Graph, Node
from robustbench_jax.ops.bounds.regions import Bounds, Region, total


class Lines(NamedTuple):
    """Below and above an operation of n inputs: n slopes [S] or [R, S] each, and an offset; a float stands for zero."""

    low: tuple[jax.Array, ...]
    low_offset: Any
    high: tuple[jax.Array, ...]
    high_offset: Any


def needed(graph: Graph) -> tuple[int, ...]:
    """The nodes whose bounds the lines of other nodes are made of, in order."""
    wanted = {i for n in graph.nodes if n.kind in LINES for i in _read(n)}
    return tuple(sorted(wanted - {0}))


def _read(node: Node) -> tuple[int, ...]:
    """The inputs whose bounds the node's lines are made of."""
    return node.inputs if node.kind == "product" else node.inputs[-1:]


def ambiguous(graph: Graph, number: int, bounds: Bounds) -> jax.Array:
    """[S]: the entries of a needed node whose bounds matter; those of ReLU alone only where both signs are possible."""
    if graph.nodes[number].positive:
        return jnp.zeros(bounds.low.shape, bool)
    readers = {n.kind for n in graph.nodes if number in n.inputs and n.kind not in ("affine",)}
    decided = (bounds.low >= 0) | (bounds.high <= 0)
    piecewise = readers <= {"relu", "maximum"} and all(
        n.kind != "maximum" or n.inputs[2] == number for n in graph.nodes if number in n.inputs
    )
    return ~decided if piecewise else bounds.high > bounds.low


def lines_of(graph: Graph, bounds: Mapping[int, Bounds], box: Bounds, alphas: Mapping[int, jax.Array]) -> dict:
    """The lines of every operation. alphas: slopes from 0 to 1 below unstable ReLUs, by node; else CROWN's choice."""
    have = {0: box} | dict(bounds)
    return {
        number: LINES[node.kind](node, [have.get(i) for i in node.inputs], alphas.get(number))
        for number, node in enumerate(graph.nodes)
        if node.kind in LINES and all(have.get(i) is not None for i in _read(node))
    }


def least(
    graph: Graph,
    start: int,
    rows: jax.Array,
    lines: Mapping[int, Lines],
    region: Region,
    shares: Mapping[int, jax.Array] | None = None,
    signed: bool = False,
) -> jax.Array:
    """[R]: lower bounds, on the region, of the linear functions rows [R, S] of the node `start`.

    shares {node: [M, S]}: each row is the sum of M that have no entries in common, and these are theirs (apart.py); the
    bounds are [R, M] then. signed: of the rows and of the rows times -1, [2 R] or [2 R, M].
    """
    coefficients, offset = carried(graph, start, rows, lines, shares=shares, signed=signed)
    a = coefficients.get(0, jnp.zeros((len(offset), *graph.nodes[0].shape), rows.dtype))
    return offset + region.least(a, None if shares is None else shares[0])


def carried(
    graph: Graph,
    start: int,
    rows: jax.Array,
    lines: Mapping[int, Lines],
    until: int = 0,
    extra: Callable | None = None,
    shares: Mapping[int, jax.Array] | None = None,
    signed: bool = False,
) -> tuple[dict[int, jax.Array], jax.Array]:
    """(coefficients by node, offset [R]) of rows carried back until only nodes up to `until` are left.

    extra(number, coefficients) -> coefficients is called at every node on the way, when its readers are all in.
    shares, signed: as `least` says.
    """
    count = len(rows) * (2 if signed else 1)
    waiting, offset = {start: rows}, jnp.zeros(count if shares is None else (count, 1), rows.dtype)
    for number in range(start, until, -1):
        if number not in waiting:
            continue
        a, node = waiting.pop(number), graph.nodes[number]
        a = a if extra is None else extra(number, a)
        if signed and number == start and node.kind != "affine":
            a = jnp.concatenate([a, -a])
        parts, moved = _affine(node, graph, a) if node.kind == "affine" else _through(a, lines[number])
        moved = total(moved, None if shares is None else shares[number])
        if signed and number == start and node.kind == "affine":  # linear: once for both
            parts, moved = [jnp.concatenate([part, -part]) for part in parts], jnp.concatenate([moved, -moved])
        offset = offset + moved
        for source, part in zip(node.inputs, parts, strict=True):
            waiting[source] = waiting[source] + part if source in waiting else part
    return waiting, offset


def at_inputs(graph: Graph, rows: jax.Array, bounds: list[Bounds], region: Region) -> jax.Array:
    """[R]: lower bounds of rows of the output from the bounds of what it is made of: the last layer folded in."""
    node = graph.nodes[graph.output]
    if node.kind != "affine":
        return _minimum(rows, bounds[graph.output])
    parts, moved = _affine(node, graph, rows)
    offset = total(moved)
    for a, number in zip(parts, node.inputs, strict=True):
        offset = offset + (_minimum(a, bounds[number]) if number else region.least(a))
    return offset


def _minimum(a: jax.Array, bounds: Bounds) -> jax.Array:
    axes = tuple(range(1, a.ndim))
    middle, radius = (bounds.low + bounds.high) / 2, (bounds.high - bounds.low) / 2
    return jnp.sum(a * middle, axes) - jnp.sum(jnp.abs(a) * radius, axes)


def _affine(node: Node, graph: Graph, a: jax.Array) -> tuple[list[jax.Array], jax.Array]:
    zeros = [jnp.zeros(graph.nodes[i].shape, a.dtype) for i in node.inputs]
    constant, pull = jax.vjp(node.apply, *zeros)
    return list(jax.vmap(pull)(a)), a * constant


def _through(a: jax.Array, lines: Lines) -> tuple[list[jax.Array], jax.Array]:
    positive, negative = jnp.maximum(a, 0), jnp.minimum(a, 0)
    parts = [positive * low + negative * high for low, high in zip(lines.low, lines.high, strict=True)]
    if isinstance(lines.low_offset, float):  # zero: the positive part is not needed by itself then
        return parts, negative * lines.high_offset
    return parts, positive * lines.low_offset + negative * lines.high_offset


# Lines of each kind of operation.


def relu_lines(z: Bounds, alpha: jax.Array | None) -> tuple:
    """(slope below, slope above, offset above) of ReLU on [low, high]; below it has no offset."""
    low, high = z
    on, off = low >= 0, high <= 0
    width = jnp.where(on | off, 1.0, high - low)
    above = jnp.where(on, 1.0, jnp.where(off, 0.0, high / width))
    slope = (high > -low).astype(low.dtype) if alpha is None else alpha
    below = jnp.where(on, 1.0, jnp.where(off, 0.0, slope))
    return below, above, jnp.where(on | off, 0.0, -high * low / width)


def _relu(node: Node, inputs: list[Bounds], alpha: jax.Array | None) -> Lines:
    below, above, offset = relu_lines(inputs[0], alpha)
    return Lines((below,), 0.0, (above,), offset)


def _maximum(node: Node, inputs: list[Bounds], alpha: jax.Array | None) -> Lines:
    """max(a, b) = b + relu(a - b)."""
    below, above, offset = relu_lines(inputs[2], alpha)
    one, none = jnp.ones(node.shape, above.dtype), jnp.zeros(node.shape, above.dtype)
    return Lines((none, one, below), 0.0, (none, one, above), offset)


def _elementwise(node: Node, inputs: list[Bounds], alpha: jax.Array | None) -> Lines:
    (below, low), (above, high) = scalar.lines(node.term, *inputs[0])
    return Lines((below,), low, (above,), high)


def _product(node: Node, inputs: list[Bounds], alpha: jax.Array | None) -> Lines:
    """McCormick, 1976: the planes through the corners."""
    a, b = inputs
    return Lines((b.low, a.low), -a.low * b.low, (b.high, a.low), -a.low * b.high)


LINES: dict[str, Callable[..., Lines]] = {
    "relu": _relu,
    "maximum": _maximum,
    "elementwise": _elementwise,
    "product": _product,
}
