"""Zonotopes: every node as an affine function of the input and of errors, carried forward through the network.

Reference: Singh et al., NeurIPS 2018, "Fast and Effective Robustness Certification" (DeepZ). An operation that is not
affine becomes a plane and an error between two bounds; of its entries' errors the largest are kept as terms of their
own, which later operations may cancel, and the others go into a box that later operations only widen.

Departs from the paper: the number of kept errors is bounded; bounds are met with those of intervals; in an L2 or L1
ball the input's part is bounded by the dual norm; operations are those of graph.py, by parallel lines of scalar.py.
Shapes: D input shape; node shapes S; K terms. One example.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from robustbench_jax.ops.bounds import interval, linear, scalar
from robustbench_jax.ops.bounds.graph import Graph, Node
from robustbench_jax.ops.bounds.regions import Bounds, Region


class Form(NamedTuple):
    """offset [S] + the sum of slopes[k] [K, S] times the terms of node k + what is at most box [S].

    The terms of node 0 are the input's entries, K of them; those of other nodes are errors between -1 and 1.
    """

    offset: jax.Array
    slopes: dict[int, jax.Array]
    box: jax.Array


class Plane(NamedTuple):
    """An operation's value lies between low [S] and high [S] above the sum of slopes[i] [S] times its input i."""

    slopes: dict[int, Any]
    low: Any
    high: Any


def propagate(graph: Graph, region: Region, errors: int) -> tuple[list[Form], list[Bounds]]:
    """Forms and bounds of every node. errors: how many each operation keeps at most."""
    forms, bounds, needed = [_input(region)], [region.box], linear.needed(graph)
    for number, node in enumerate(graph.nodes[1:], start=1):
        inputs, within = [forms[i] for i in node.inputs], [bounds[i] for i in node.inputs]
        if node.kind == "affine":
            form = _affine(node, inputs)
        else:
            form = _moved(PLANES[node.kind](node, *within), inputs, node, number, errors)
        forms.append(form)
        plain = interval.RULES[node.kind](node, *within)
        bounds.append(_better(plain, enclosed(form, region)) if number in needed and not node.positive else plain)
    return forms, bounds


def enclosed(form: Form, region: Region) -> Bounds:
    """The least and the greatest value of a form on the region."""
    low, high = region.limits(form.slopes[0])
    rest = form.box + sum(_sizes(s) for k, s in form.slopes.items() if k)
    return Bounds(form.offset + low - rest, form.offset + high + rest)


def _sizes(terms: jax.Array) -> jax.Array:
    """[S]: the sum of the sizes of terms [K, S]; as a product, see Region.limits."""
    return (jnp.ones(len(terms), terms.dtype) @ jnp.abs(terms).reshape(len(terms), -1)).reshape(terms.shape[1:])


def _better(a: Bounds, b: Bounds) -> Bounds:
    """The better of both, where one is no number the other."""
    return Bounds(jnp.fmax(a.low, b.low), jnp.fmin(a.high, b.high))


def least(graph: Graph, rows: jax.Array, forms: list[Form], region: Region) -> jax.Array:
    """[R]: lower bounds of rows [R, S] of the output; an affine output is folded into them."""
    coefficients, offset = {graph.output: rows}, 0.0
    if graph.nodes[graph.output].kind == "affine":
        coefficients, offset = linear.carried(graph, graph.output, rows, {}, until=graph.output - 1)
    found = Form(offset + jnp.zeros(len(rows), rows.dtype), {}, jnp.zeros(len(rows), rows.dtype))
    for number, a in coefficients.items():
        found = _sum(found, _mapped(a.reshape(len(a), -1), forms[number]))
    return enclosed(found, region).low


def _input(region: Region) -> Form:
    zero = jnp.zeros_like(region.x)
    return Form(zero, {0: jnp.eye(zero.size, dtype=zero.dtype).reshape(zero.size, *zero.shape)}, zero)


def _affine(node: Node, inputs: list[Form]) -> Form:
    offset, tangent = jax.linearize(node.apply, *(form.offset for form in inputs))
    slopes = {}
    for k in sorted({k for form in inputs for k in form.slopes}):
        count = next(len(form.slopes[k]) for form in inputs if k in form.slopes)
        none = [jnp.zeros((count, *form.offset.shape), offset.dtype) for form in inputs]
        slopes[k] = jax.vmap(tangent)(*(form.slopes.get(k, z) for form, z in zip(inputs, none, strict=True)))
    return Form(offset, slopes, node.spread(*(form.box for form in inputs)))


def _moved(plane: Plane, inputs: list[Form], node: Node, number: int, errors: int) -> Form:
    """The plane of an operation through its inputs' forms, with its errors."""
    middle, radius = jnp.broadcast_to((plane.low + plane.high) / 2, node.shape), (plane.high - plane.low) / 2
    form = Form(middle, {}, jnp.zeros_like(middle))
    for i, slope in plane.slopes.items():
        form = _sum(form, _scaled(slope, inputs[i]))
    kept, rest = _largest(radius, min(errors, radius.size))
    return Form(form.offset, form.slopes | ({number: kept} if len(kept) else {}), form.box + rest)


def _largest(radius: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """(the `count` largest entries of [S] as terms [K, S], the others [S])."""
    flat = radius.ravel()
    if not count:
        return jnp.zeros((0, *radius.shape), radius.dtype), radius
    size, where = jax.lax.top_k(flat, count)
    terms = jnp.zeros((count, flat.size), flat.dtype).at[jnp.arange(count), where].set(size)
    return terms.reshape(count, *radius.shape), flat.at[where].set(0.0).reshape(radius.shape)


def _scaled(slope: Any, form: Form) -> Form:
    return Form(slope * form.offset, {k: slope * s for k, s in form.slopes.items()}, jnp.abs(slope) * form.box)


def _mapped(matrix: jax.Array, form: Form) -> Form:
    """The linear map [R, S] of a form."""
    slopes = {k: s.reshape(len(s), -1) @ matrix.T for k, s in form.slopes.items()}
    return Form(matrix @ form.offset.ravel(), slopes, jnp.abs(matrix) @ form.box.ravel())


def _sum(a: Form, b: Form) -> Form:
    shared = {k: a.slopes[k] + b.slopes[k] for k in a.slopes if k in b.slopes}
    return Form(a.offset + b.offset, a.slopes | b.slopes | shared, a.box + b.box)


# Planes of each kind of operation.


def _relu(node: Node, z: Bounds) -> Plane:
    """Section 3.1 of the paper: between the chord and the parallel through zero."""
    _, slope, offset = linear.relu_lines(z, None)
    return Plane({0: slope}, jnp.zeros_like(offset), offset)


def _maximum(node: Node, a: Bounds, b: Bounds, difference: Bounds) -> Plane:
    """max(a, b) = b + relu(a - b)."""
    _, slope, offset = linear.relu_lines(difference, None)
    return Plane({1: jnp.ones_like(slope), 2: slope}, jnp.zeros_like(offset), offset)


def _elementwise(node: Node, z: Bounds) -> Plane:
    slope, least, most = scalar.parallel(node.term, *z)
    return Plane({0: slope}, least, most)


def _product(node: Node, a: Bounds, b: Bounds) -> Plane:
    """ab = a b0 + a0 b - a0 b0 + (a - a0)(b - b0), around the middles."""
    (a0, b0), (a1, b1) = (((z.low + z.high) / 2 for z in (a, b)), ((z.high - z.low) / 2 for z in (a, b)))
    return Plane({0: b0, 1: a0}, -a0 * b0 - a1 * b1, -a0 * b0 + a1 * b1)


PLANES: dict[str, Callable[..., Plane]] = {
    "relu": _relu,
    "maximum": _maximum,
    "elementwise": _elementwise,
    "product": _product,
}
