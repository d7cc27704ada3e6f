"""A model as a small graph of our own, read off the jaxpr of any JAX function: the one file that knows JAX's internals.

`read(function, x)` traces the function at one image. Whatever does not depend on the image is computed on the way, so
that it may be traced itself (weights under jit). The rest becomes nodes of six kinds:

input        the image
affine       affine in all of its inputs: apply(*values), and spread(*radii), the map with coefficients made positive
relu         max(z, 0)
maximum      max(a, b), with a third input a - b
elementwise  any scalar function of one input, entry by entry: term(value)
product      a * b, entry by entry

Other operations are rewritten: max with a constant and clipping by relu, pooling by pairwise maxima, softmax by
exponentials of differences, leaky ReLU by relu and a line, products of matrices by products of entries. What has no
rule is named with its place when, and only when, the output depends on it.
Shapes: D input shape; nodes have the shapes of the function's own values.
"""

import dataclasses
import string
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from robustbench_jax.ops.bounds import layouts, nodes
from robustbench_jax.ops.bounds.nodes import Graph, Node, Shape
from robustbench_jax.ops.bounds.ranges import NONLINEAR, PREDICATES
from robustbench_jax.ops.bounds.terms import Known, Source, Term, constants, is_affine, value
from robustbench_jax.types import UserError

CALLS = {  # primitives that wrap a jaxpr, and where it is
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "checkpoint": "jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
}
STRUCTURAL = {  # affine in the first operand, the others say where things go
    *("reshape", "transpose", "broadcast_in_dim", "squeeze", "expand_dims", "slice", "rev", "copy", "copy_p", "gather"),
    *("dynamic_slice", "convert_element_type", "reduce_precision", "real", "tile"),
}
SUMS = {"reduce_sum", "cumsum", "reduce_window_sum"}  # as those, and mixing entries
BILINEAR = {"dot_general", "conv_general_dilated", "conv", "conv_input_gradient", "conv_kernel_gradient"}
JOINING = {"add", "add_any", "sub", "concatenate", "stack", "pad"}
SAME = {"stop_gradient", "optimization_barrier", "sharding_constraint"}


def read(function: Callable, x: Any) -> Graph:
    """The graph of function(x [D]) -> one array. UserError, with operation and place, where a rule is missing."""
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    closed = jax.make_jaxpr(function)(shape)
    reader = _Reader(tuple(x.shape))
    out = reader.run(closed.jaxpr, closed.consts, [_Bounded(0)])
    if len(out) != 1:
        raise UserError(f"a model must return one array of logits; this one returns {len(out)}")
    if not isinstance(out[0], _Bounded):
        raise UserError("the model's logits do not depend on its input")
    return Graph(nodes.joined(nodes.needed(reader.nodes, out[0].number)))


@dataclass(frozen=True)
class _Bounded:
    """A value that depends on the image, by the number of its node."""

    number: int


class _Reader:
    """Walks a jaxpr. nodes: what was made; made[k]: by which operation; terms[k]: node k as a scalar function of other
    nodes, of itself first and then from the nearest to the farthest.
    """

    def __init__(self, shape: Shape):
        self.nodes: list[Node] = []
        self.terms: list[dict[int, Any]] = []
        self.made: list[tuple[str, tuple, dict]] = []
        self.called = ""  # where the function that is being read was called, if JAX kept no more
        self.add(Node("input", (), shape))

    def add(self, node: Node, terms: dict[int, Any] | None = None, made: tuple = ("", (), {})) -> _Bounded:
        self.nodes.append(node)
        number = len(self.nodes) - 1
        self.terms.append({number: Source()} | (terms or {}))
        self.made.append(made)
        return _Bounded(number)

    def run(self, jaxpr: Any, consts: list, arguments: list) -> list:
        """The outputs of a jaxpr: values where they are known, _Bounded where they are not."""
        have: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
        have |= dict(zip(jaxpr.invars, arguments, strict=True))

        def get(variable):
            return variable.val if isinstance(variable, core.Literal) else have[variable]

        for equation in jaxpr.eqns:
            found = self.equation(equation, [get(v) for v in equation.invars])
            have |= dict(zip(equation.outvars, found, strict=True))
        return [get(v) for v in jaxpr.outvars]

    def equation(self, equation: Any, operands: list) -> list:
        name = equation.primitive.name
        if name in CALLS:
            inner = equation.params[CALLS[name]]
            closed, outer = hasattr(inner, "consts"), self.called
            self.called = _place(equation) or outer
            out = self.run(inner.jaxpr if closed else inner, inner.consts if closed else [], operands)
            self.called = outer
            return out
        if not any(isinstance(o, _Bounded) for o in operands):
            out = equation.primitive.bind(*operands, **equation.params)
            return list(out) if equation.primitive.multiple_results else [out]
        if name in SAME:
            return operands
        if name in ("split", "unstack"):
            return self.cut(_Step(equation, name, operands, self.called))
        return [self.rule(equation, name, operands)]

    def rule(self, equation: Any, name: str, operands: list) -> _Bounded:
        """One node for one equation, or the nodes that it is rewritten to."""
        step = _Step(equation, name, operands, self.called)
        if len(equation.outvars) > 1:
            return self.unsupported(step)
        if name in NONLINEAR or name in ("add", "sub"):
            step = _Step(equation, name, [self.broadcast(o, step) for o in operands], self.called)
        found = self.affine(step) or self.scalar(step)
        for rewriting in (self.maxima, self.pooled, self.matrices) if found is None else ():
            found = found or rewriting(step)
        return found or self.unsupported(step)

    def broadcast(self, operand: Any, step: "_Step") -> Any:
        """Operations entry by entry stretch axes of length one: an operand that depends on the image, stretched."""
        if not isinstance(operand, _Bounded) or self.nodes[operand.number].shape == step.shape:
            return operand
        if self.nodes[operand.number].kind == "unsupported":
            return operand
        apply = partial(jnp.broadcast_to, shape=step.shape)
        kept = {"broadcast_dimensions": tuple(range(len(self.nodes[operand.number].shape)))}
        made = ("broadcast_in_dim", (operand,), kept)
        return self.add(Node("affine", (operand.number,), step.shape, apply, apply, place=step.place), made=made)

    def unsupported(self, step: "_Step") -> _Bounded:
        inputs = tuple(o.number for o in step.operands if isinstance(o, _Bounded))
        return self.add(Node("unsupported", inputs, step.shape, place=f"'{step.name}' {step.place}".strip()))

    # Affine operations.

    def affine(self, step: "_Step") -> _Bounded | None:
        """The node of an operation that is affine in what depends on the image; None if it is not one."""
        name, bounded = step.name, step.bounded
        one, first = len(bounded) == 1, 0 in bounded
        if name == "convert_element_type" and self.nodes[step.first].kind == "unsupported":
            return None  # of a comparison
        if name in JOINING or (name in STRUCTURAL | SUMS and one and first and step.floating):
            mixing = int(name in SUMS or (name not in ("concatenate", "stack", "pad") and len(bounded) > 1))
        elif name in BILINEAR and one:
            mixing = 1
        elif (name in ("mul", "neg") and one) or (name == "div" and one and first):
            mixing = 0
        elif name == "dynamic_update_slice" and max(bounded) < 2:
            mixing = 0
        elif name == "select_n" and not first:
            mixing = 0
        else:
            return None
        inputs = tuple(step.operands[i].number for i in bounded)
        node = Node("affine", inputs, step.shape, step.apply, step.spread(), mixing=mixing, place=step.place)
        return self.add(node, self.composed(step), (name, tuple(step.operands), step.params))

    def composed(self, step: "_Step") -> dict[int, Any]:
        """The operation as a term of each node that all of its operands are scalar functions of."""
        if step.name not in NONLINEAR and step.name not in ("add", "sub", "neg", "add_any"):
            return {}
        operands = [step.operands[i].number for i in step.bounded]
        if any(self.nodes[number].shape != step.shape for number in operands):
            return {}
        found = {}
        for source in self.terms[operands[0]]:
            if all(source in self.terms[number] for number in operands) and self.nodes[source].shape == step.shape:
                own = [self.terms[o.number][source] if isinstance(o, _Bounded) else Known(o) for o in step.operands]
                found[source] = Term(step.primitive, tuple(step.params.items()), tuple(own))
        return found

    # Scalar functions.

    def scalar(self, step: "_Step") -> _Bounded | None:
        """A scalar function of one node, or a product of two nodes."""
        name = step.name
        if name in ("max", "min", "clamp") or name not in NONLINEAR:
            return None
        if name == "convert_element_type" and not step.floating:
            return None  # cuts off what is behind the point
        if name == "div" and 1 in step.bounded and (found := self.softmax(step)):
            return found
        composed = self.composed(step)
        if name in ("mul", "div") and len(step.bounded) == 2 and not composed:
            return self.product(step)
        if not composed:
            return None
        made = (name, tuple(step.operands), step.params)
        if name in PREDICATES:
            return self.add(Node("unsupported", (step.first,), step.shape, place=f"'{name}' {step.place}"), composed)
        source = next(iter(composed))
        if len(step.bounded) == 1:
            inside = self.terms[step.first]
            source = next((s for s in composed if not is_affine(inside[s])), source)
        if name == "select_n" and (found := self.leaky(source, composed, step)):
            return found
        return self.add(
            Node("elementwise", (source,), step.shape, term=composed[source], place=step.place), composed, made
        )

    def product(self, step: "_Step") -> _Bounded:
        a, b = step.operands
        if step.name == "div":
            shape = self.nodes[b.number].shape
            term = Term(jax.lax.integer_pow_p, (("y", -1),), (Source(),))
            b = self.add(Node("elementwise", (b.number,), shape, term=term, place=step.place))
        return self.add(Node("product", (a.number, b.number), step.shape, place=step.place))

    def leaky(self, source: int, composed: dict, step: "_Step") -> _Bounded | None:
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
        moved = self.line(source, lambda z: z - corner, step) if np.any(corner) else _Bounded(source)
        active = self.add(Node("relu", (moved.number,), step.shape, place=step.place))
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
        return self.add(node, composed)

    def cut(self, step: "_Step") -> list[_Bounded]:
        """An array cut along an axis: one node for each piece."""

        def piece(z, number):
            return step.primitive.bind(z, **step.params)[number]

        shapes = [tuple(v.aval.shape) for v in step.equation.outvars]
        return [self.part(step.operands[0], partial(piece, number=i), s, step) for i, s in enumerate(shapes)]

    def line(self, number: int, apply: Callable, step: "_Step") -> _Bounded:
        """A line of slope 1 or -1 through one node."""
        shape = self.nodes[number].shape
        return self.add(Node("affine", (number,), shape, apply, lambda r: r, place=step.place))

    # Rewritings.

    def maxima(self, step: "_Step") -> _Bounded | None:
        """max, min and clamp."""
        if step.name == "clamp" and step.bounded == [1]:
            low, middle, high = step.operands
            least = self.upper_of(middle, low, step)
            return self.add_term(self.lower_of(least, high, step), step)
        if step.name not in ("max", "min"):
            return None
        if len(step.bounded) == 2:
            if step.name == "max":
                return self.larger(*(o.number for o in step.operands), step)
            a, b = (self.line(o.number, jnp.negative, step) for o in step.operands)
            return self.line(self.larger(a.number, b.number, step).number, jnp.negative, step)
        known = step.operands[1 - step.bounded[0]]
        if np.all(_is(known, -np.inf if step.name == "max" else np.inf)):
            return step.operands[step.bounded[0]]
        bound = self.upper_of if step.name == "max" else self.lower_of
        return self.add_term(bound(step.operands[step.bounded[0]], known, step), step)

    def add_term(self, node: _Bounded, step: "_Step") -> _Bounded:
        """Notes that the node is a scalar function of what the step's operand is one of."""
        self.terms[node.number] |= self.composed(step)
        return node

    def upper_of(self, z: _Bounded, known: Any, step: "_Step") -> _Bounded:
        """max(z, known) = known + relu(z - known)."""
        if np.all(_is(known, 0)):
            return self.add(Node("relu", (z.number,), step.shape, place=step.place))
        active = self.add(Node("relu", (self.line(z.number, lambda z: z - known, step).number,), step.shape))
        return self.line(active.number, lambda z: z + known, step)

    def lower_of(self, z: _Bounded, known: Any, step: "_Step") -> _Bounded:
        """min(z, known) = known - relu(known - z)."""
        active = self.add(Node("relu", (self.line(z.number, lambda z: known - z, step).number,), step.shape))
        return self.line(active.number, lambda z: known - z, step)

    def larger(self, a: int, b: int, step: "_Step") -> _Bounded:
        difference = Node("affine", (a, b), step.shape, jnp.subtract, jnp.add, mixing=1, place=step.place)
        number = self.add(difference).number
        return self.add(Node("maximum", (a, b, number), step.shape, place=step.place))

    def pooled(self, step: "_Step") -> _Bounded | None:
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
            inside = self.line(inside.number, jnp.negative, step)
        shape = jax.eval_shape(apply, jax.ShapeDtypeStruct(self.nodes[inside.number].shape, jnp.float32)).shape
        found = self.add(Node("affine", (inside.number,), shape, apply, apply, place=step.place))
        found = self.largest(found, _Shaped(step, shape))
        return self.line(found.number, jnp.negative, step) if negative else found

    def largest(self, node: _Bounded, step: "_Shaped") -> _Bounded:
        """The maximum over the last axis, by pairs."""
        *outer, count = step.shape
        if count == 1:
            return self.part(node, lambda z: z[..., 0], tuple(outer), step)
        half = count // 2
        pair = [
            self.part(node, lambda z, o=start: z[..., o : o + half], (*outer, half), step)
            for start in (0, count - half)
        ]
        winners = self.larger(pair[0].number, pair[1].number, _Shaped(step, (*outer, half)))
        if count % 2:
            middle = self.part(node, lambda z: z[..., half : half + 1], (*outer, 1), step)

            def join(a, b):
                return jnp.concatenate([a, b], axis=-1)

            both = (winners.number, middle.number)
            winners = self.add(Node("affine", both, (*outer, half + 1), join, join, place=step.place))
        return self.largest(winners, _Shaped(step, (*outer, half + count % 2)))

    def part(self, node: _Bounded, apply: Callable, shape: Shape, step: Any) -> _Bounded:
        return self.add(Node("affine", (node.number,), shape, apply, apply, place=step.place))

    def matrices(self, step: "_Step") -> _Bounded | None:
        """A product of two matrices that both depend on the image: of entries, then sums."""
        if step.name != "dot_general" or len(step.bounded) != 2:
            return None
        (left, right), (batch, batch_right) = step.params["dimension_numbers"]
        a, b = (self.nodes[o.number].shape for o in step.operands)
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
        wide = [self.part(o, apply, shape, step) for o, apply in zip(step.operands, spreads, strict=True)]
        products = self.add(Node("product", (wide[0].number, wide[1].number), shape, place=step.place))
        axes = tuple(range(len(out), len(every)))
        node = Node("affine", (products.number,), step.shape, *(partial(jnp.sum, axis=axes),) * 2, mixing=1)
        return self.add(dataclasses.replace(node, place=step.place))

    def softmax(self, step: "_Step") -> _Bounded | None:
        """exp(z) / sum(exp(z)) = 1 / sum_j exp(z_j - z_i); a shift of z that is constant along the sum falls out."""
        above, below = step.operands
        if not isinstance(above, _Bounded) or self.made[above.number][0] != "exp":
            return None
        name, operands, params = self.made[below.number]
        while name in ("broadcast_in_dim", "reshape", "expand_dims"):
            name, operands, params = self.made[operands[0].number]
        if name != "reduce_sum" or operands[0] != above or len(params["axes"]) != 1:
            return None
        axis = params["axes"][0]
        inside = self.made[above.number][1][0]
        name, operands, _ = self.made[inside.number]
        if name == "sub" and isinstance(operands[0], _Bounded) and self.constant_along(operands[1], axis):
            inside = operands[0]
        z = self.nodes[inside.number].shape
        wide = (*z, z[axis])

        def differences(z):
            return jnp.moveaxis(z, axis, -1)[(slice(None),) * axis + (None,)] - z[..., None]

        def spread(z):
            other = jnp.moveaxis(z, axis, -1)[(slice(None),) * axis + (None,)]
            itself = jnp.expand_dims(jnp.eye(z.shape[axis]), [k for k in range(z.ndim) if k != axis])
            return (other + z[..., None]) * (1 - itself)

        apart = self.add(Node("affine", (inside.number,), wide, differences, spread, mixing=1, place=step.place))
        grown = self.add(Node("elementwise", (apart.number,), wide, term=Term(jax.lax.exp_p, _EXP, (Source(),))))
        total = partial(jnp.sum, axis=-1)
        added = self.add(Node("affine", (grown.number,), z, total, total, mixing=1, place=step.place))
        term = Term(jax.lax.integer_pow_p, (("y", -1),), (Source(),))
        return self.add(Node("elementwise", (added.number,), z, term=term, place=step.place))

    def constant_along(self, operand: Any, axis: int) -> bool:
        """Whether a value has been broadcast along this axis."""
        if not isinstance(operand, _Bounded):
            return False
        shape = self.nodes[operand.number].shape
        if shape[axis] == 1:
            return True
        name, operands, params = self.made[operand.number]
        if name != "broadcast_in_dim":
            return False
        kept = params["broadcast_dimensions"]
        return axis not in kept or self.nodes[operands[0].number].shape[kept.index(axis)] == 1


_EXP = tuple(jax.make_jaxpr(jnp.exp)(1.0).eqns[0].params.items())


class _Step:
    """One equation with its operands."""

    def __init__(self, equation: Any, name: str, operands: list, called: str):
        self.equation, self.name, self.operands = equation, name, operands
        self.primitive, self.params = equation.primitive, equation.params
        self.shape = tuple(equation.outvars[0].aval.shape)
        self.floating = jnp.issubdtype(equation.outvars[0].aval.dtype, jnp.floating)
        self.bounded = [i for i, o in enumerate(operands) if isinstance(o, _Bounded)]
        self.first = operands[self.bounded[0]].number
        self.place = _place(equation) or called

    def apply(self, *values: jax.Array) -> jax.Array:
        return self.bind(self.params, values, self.operands)

    def bind(self, params: dict, values: tuple, known: list) -> jax.Array:
        given = iter(values)
        operands = [next(given) if i in self.bounded else k for i, k in enumerate(known)]
        return self.primitive.bind(*operands, **params)

    def spread(self) -> Callable:
        """The map of radii: coefficients made positive, constants left out."""
        name = self.name
        if name in ("neg", "add", "sub", "add_any"):
            return lambda *radii: jnp.broadcast_to(sum(radii), self.shape)
        if name in BILINEAR | {"mul", "div"}:
            known = [o if isinstance(o, _Bounded) else jnp.abs(o) for o in self.operands]
        elif name in JOINING | {"select_n", "dynamic_update_slice"}:
            places = range(1, 3) if name == "select_n" else range(len(self.operands))
            places = range(2) if name == "dynamic_update_slice" else places
            known = [
                jnp.zeros_like(o) if i in places and not isinstance(o, _Bounded) else o
                for i, o in enumerate(self.operands)
            ]
        else:
            known = self.operands
        return lambda *radii: self.bind(self.params, radii, known)


class _Shaped:
    """Where a rewriting's nodes come from, and the shape of the one at hand."""

    def __init__(self, step: Any, shape: Shape):
        self.place, self.shape = step.place, shape


def _place(equation: Any) -> str:
    """The line of the model that made an equation; nothing where JAX did not keep it, or keeps it elsewhere by now."""
    try:
        from jax._src import source_info_util

        frame = source_info_util.user_frame(equation.source_info.traceback)
    except (ImportError, AttributeError, TypeError):
        return ""
    where = f"{frame.file_name.rsplit('/', 1)[-1]}:{frame.start_line}" if frame else ""
    return f"({where})" if where else ""


def _is(known: Any, number: float) -> Any:
    """Whether a known value is this number everywhere; never for one that is traced."""
    return False if isinstance(known, jax.core.Tracer) else np.asarray(known) == number
