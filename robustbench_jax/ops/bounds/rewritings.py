"""Operations rewritten to nodes of the six kinds: quotients, leaky ReLU, maxima, pools, products of matrices, softmax.

Each function takes the builder and a step, makes the nodes, and returns the last of them; None for a step that is not
its own.
"""

import dataclasses
import string
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.ops.bounds import layouts
from robustbench_jax.ops.bounds.building import Bounded, Builder, Shaped, Step
from robustbench_jax.ops.bounds.nodes import Node
from robustbench_jax.ops.bounds.terms import Known, Source, Term, constants, is_affine, value

CUT = 40.0  # of differences in a softmax


def product(builder: Builder, step: Step) -> Bounded:
    a, b = step.operands
    if step.name == "div":
        shape = builder.nodes[b.number].shape
        term = Term(jax.lax.integer_pow_p, (("y", -1),), (Source(),))
        b = builder.add(Node("elementwise", (b.number,), shape, term=term, place=step.place))
    return builder.add(Node("product", (a.number, b.number), step.shape, place=step.place))


def leaky(builder: Builder, source: int, composed: dict, step: Step) -> Bounded | None:
    """where(z >= c, line, other line), the two meeting at c: the other line plus a multiple of relu(z - c)."""
    term = composed[source]
    predicate, below, above = term.arguments if len(term.arguments) == 3 else (None,) * 3
    if not (isinstance(predicate, Term) and is_affine(below) and is_affine(above)):
        return None
    if any(np.size(known) != 1 for side in (below, above) for known in constants(side)):
        return None
    name, sides = str(predicate.primitive), predicate.arguments
    if name not in ("ge", "gt", "le", "lt") or not (isinstance(sides[0], Source) and isinstance(sides[1], Known)):
        return None
    corner = sides[1].value
    if isinstance(corner, jax.core.Tracer) or np.size(corner) != 1:
        return None
    if name in ("le", "lt"):
        below, above = above, below
    try:
        with jax.ensure_compile_time_eval():
            ends = jnp.asarray([corner, corner + 1], jnp.float32).reshape(2)
            at = [float(value(side, ends)[d]) for d in (0, 1) for side in (below, above)]
    except (jax.errors.ConcretizationTypeError, TypeError, ValueError):
        return None
    if at[0] != at[1]:
        return None
    steeper = at[3] - at[2]
    moved = builder.line(source, lambda z: z - corner, step) if np.any(corner) else Bounded(source)
    active = builder.add(Node("relu", (moved.number,), step.shape, place=step.place))
    pair = (source, active.number)
    node = Node(
        "affine",
        pair,
        step.shape,
        lambda z, r: value(below, z) + steeper * r,
        lambda z, r: jnp.abs(value(below, z) - value(below, jnp.zeros_like(z))) + abs(steeper) * r,
        mixing=1,
        place=step.place,
    )
    return builder.add(node, composed)


def maxima(builder: Builder, step: Step) -> Bounded | None:
    """max, min and clamp."""
    if step.name == "clamp" and step.bounded == [1]:
        low, middle, high = step.operands
        least = upper_of(builder, middle, low, step)
        return add_term(builder, lower_of(builder, least, high, step), step)
    if step.name not in ("max", "min"):
        return None
    if len(step.bounded) == 2:
        if step.name == "max":
            return larger(builder, *(o.number for o in step.operands), step)
        a, b = (builder.line(o.number, jnp.negative, step) for o in step.operands)
        return builder.line(larger(builder, a.number, b.number, step).number, jnp.negative, step)
    known = step.operands[1 - step.bounded[0]]
    if np.all(_is(known, -np.inf if step.name == "max" else np.inf)):
        return step.operands[step.bounded[0]]
    bound = upper_of if step.name == "max" else lower_of
    return add_term(builder, bound(builder, step.operands[step.bounded[0]], known, step), step)


def add_term(builder: Builder, node: Bounded, step: Step) -> Bounded:
    """Notes that the node is a scalar function of what the step's operand is one of."""
    builder.terms[node.number] |= builder.composed(step)
    return node


def upper_of(builder: Builder, z: Bounded, known: Any, step: Step) -> Bounded:
    """max(z, known) = known + relu(z - known)."""
    if np.all(_is(known, 0)):
        return builder.add(Node("relu", (z.number,), step.shape, place=step.place))
    active = builder.add(Node("relu", (builder.line(z.number, lambda z: z - known, step).number,), step.shape))
    return builder.line(active.number, lambda z: z + known, step)


def lower_of(builder: Builder, z: Bounded, known: Any, step: Step) -> Bounded:
    """min(z, known) = known - relu(known - z)."""
    active = builder.add(Node("relu", (builder.line(z.number, lambda z: known - z, step).number,), step.shape))
    return builder.line(active.number, lambda z: known - z, step)


def larger(builder: Builder, a: int, b: int, step: Step) -> Bounded:
    difference = Node("affine", (a, b), step.shape, jnp.subtract, jnp.add, mixing=1, place=step.place)
    number = builder.add(difference).number
    return builder.add(Node("maximum", (a, b, number), step.shape, place=step.place))


def pooled(builder: Builder, step: Step) -> Bounded | None:
    """Maxima over axes or windows: entries side by side on a last axis, then halves of it against each other."""
    inside = step.operands[0]
    if step.bounded[0] != 0:
        return None
    if step.name in ("reduce_max", "reduce_min"):
        axes = step.params["axes"]
        apply = partial(layouts.last, axes=axes)
    elif step.name == "reduce_window_max":
        if any(d != 1 for d in (*step.params["base_dilation"], *step.params["window_dilation"])):
            return None
        apply = partial(
            layouts.windows, **{k: step.params[k] for k in ("window_dimensions", "window_strides", "padding")}
        )
    else:
        return None
    negative = step.name == "reduce_min"
    if negative:
        inside = builder.line(inside.number, jnp.negative, step)
    shape = jax.eval_shape(apply, jax.ShapeDtypeStruct(builder.nodes[inside.number].shape, jnp.float32)).shape
    found = builder.add(Node("affine", (inside.number,), shape, apply, apply, place=step.place))
    found = largest(builder, found, Shaped(step, shape))
    return builder.line(found.number, jnp.negative, step) if negative else found


def largest(builder: Builder, node: Bounded, step: Shaped) -> Bounded:
    """The maximum over the last axis, by pairs."""
    *outer, count = step.shape
    if count == 1:
        return builder.part(node, lambda z: z[..., 0], tuple(outer), step)
    half = count // 2
    pair = [
        builder.part(node, lambda z, o=start: z[..., o : o + half], (*outer, half), step) for start in (0, count - half)
    ]
    winners = larger(builder, pair[0].number, pair[1].number, Shaped(step, (*outer, half)))
    if count % 2:
        middle = builder.part(node, lambda z: z[..., half : half + 1], (*outer, 1), step)

        def join(a, b):
            return jnp.concatenate([a, b], axis=-1)

        both = (winners.number, middle.number)
        winners = builder.add(Node("affine", both, (*outer, half + 1), join, join, place=step.place))
    return largest(builder, winners, Shaped(step, (*outer, half + count % 2)))


def matrices(builder: Builder, step: Step) -> Bounded | None:
    """A product of two matrices that both depend on the image: of entries, then sums."""
    if step.name != "dot_general" or len(step.bounded) != 2:
        return None
    (left, right), (batch, batch_right) = step.params["dimension_numbers"]
    a, b = (builder.nodes[o.number].shape for o in step.operands)
    names = iter(string.ascii_letters)
    first = [next(names) for _ in a]
    paired = dict(zip((*right, *batch_right), (*left, *batch), strict=True))
    second = [first[paired[i]] if i in paired else next(names) for i in range(len(b))]
    shared = [first[i] for i in left]
    out = [first[i] for i in batch] + [n for i, n in enumerate(first) if i not in (*left, *batch)]
    out += [n for i, n in enumerate(second) if i not in (*right, *batch_right)]
    sizes = dict(zip((*first, *second), (*a, *b), strict=True))
    every = (*out, *shared)
    shape = tuple(sizes[n] for n in every)
    spreads = [partial(layouts.laid_out, own=tuple(own), every=every, shape=shape) for own in (first, second)]
    wide = [builder.part(o, apply, shape, step) for o, apply in zip(step.operands, spreads, strict=True)]
    products = builder.add(Node("product", (wide[0].number, wide[1].number), shape, place=step.place))
    axes = tuple(range(len(out), len(every)))
    node = Node("affine", (products.number,), step.shape, *(partial(jnp.sum, axis=axes),) * 2, mixing=1)
    return builder.add(dataclasses.replace(node, place=step.place))


def softmax(builder: Builder, step: Step) -> Bounded | None:
    """exp(z) / sum(exp(z)) = 1 / sum_j exp(z_j - z_i); a shift of z that is constant along the sum falls out.

    Differences are cut off at CUT, against overflow: that moves no value by more than 5e-18.
    """
    above, below = step.operands
    if not isinstance(above, Bounded) or builder.made[above.number][0] != "exp":
        return None
    name, operands, params = builder.made[below.number]
    while name in ("broadcast_in_dim", "reshape", "expand_dims"):
        name, operands, params = builder.made[operands[0].number]
    if name != "reduce_sum" or operands[0] != above or len(params["axes"]) != 1:
        return None
    axis = params["axes"][0]
    inside = builder.made[above.number][1][0]
    name, operands, _ = builder.made[inside.number]
    if name == "sub" and isinstance(operands[0], Bounded) and constant_along(builder, operands[1], axis):
        inside = operands[0]
    z = builder.nodes[inside.number].shape
    wide = (*z, z[axis])

    def differences(z):
        return jnp.moveaxis(z, axis, -1)[(slice(None),) * axis + (None,)] - z[..., None]

    def spread(z):
        other = jnp.moveaxis(z, axis, -1)[(slice(None),) * axis + (None,)]
        itself = jnp.expand_dims(jnp.eye(z.shape[axis]), [k for k in range(z.ndim) if k != axis])
        return (other + z[..., None]) * (1 - itself)

    apart = builder.add(Node("affine", (inside.number,), wide, differences, spread, mixing=1, place=step.place))
    grown = builder.add(Node("elementwise", (apart.number,), wide, term=_exponential(CUT), place=step.place))
    total = partial(jnp.sum, axis=-1)
    added = Node("affine", (grown.number,), z, total, total, mixing=1, positive=True, place=step.place)
    added = builder.add(added)
    at_least_one = Term(jax.lax.max_p, (), (Source(), Known(1.0)))  # exp(z_i - z_i); rounding may lose it
    term = Term(jax.lax.integer_pow_p, (("y", -1),), (at_least_one,))
    return builder.add(Node("elementwise", (added.number,), z, term=term, place=step.place))


def _exponential(cut: float) -> Term:
    """exp(min(z, cut))."""
    params = tuple(jax.make_jaxpr(jnp.exp)(1.0).eqns[0].params.items())
    return Term(jax.lax.exp_p, params, (Term(jax.lax.min_p, (), (Source(), Known(cut))),))


def constant_along(builder: Builder, operand: Any, axis: int) -> bool:
    """Whether a value has been broadcast along this axis."""
    if not isinstance(operand, Bounded):
        return False
    shape = builder.nodes[operand.number].shape
    if shape[axis] == 1:
        return True
    name, operands, params = builder.made[operand.number]
    if name != "broadcast_in_dim":
        return False
    kept = params["broadcast_dimensions"]
    return axis not in kept or builder.nodes[operands[0].number].shape[kept.index(axis)] == 1


def _is(known: Any, number: float) -> Any:
    """Whether a known value is this number everywhere; never for one that is traced."""
    return False if isinstance(known, jax.core.Tracer) else np.asarray(known) == number
