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

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from robustbench_jax.ops.bounds import nodes, rewritings
from robustbench_jax.ops.bounds.building import BILINEAR, JOINING, PLACED, Bounded, Builder, Step
from robustbench_jax.ops.bounds.nodes import Graph, Node, Shape
from robustbench_jax.ops.bounds.ranges import NONLINEAR, PREDICATES
from robustbench_jax.ops.bounds.terms import is_affine
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
SAME = {"stop_gradient", "optimization_barrier", "sharding_constraint"}


def read(function: Callable, x: Any) -> Graph:
    """The graph of function(x [D]) -> one array. UserError, with operation and place, where a rule is missing."""
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    closed = jax.make_jaxpr(function)(shape)
    reader = _Reader(tuple(x.shape))
    out = reader.run(closed.jaxpr, closed.consts, [Bounded(0)])
    if len(out) != 1:
        raise UserError(f"a model must return one array of logits; this one returns {len(out)}")
    if not isinstance(out[0], Bounded):
        raise UserError("the model's logits do not depend on its input")
    return Graph(nodes.joined(nodes.needed(reader.nodes, out[0].number)))


class _Reader(Builder):
    """Walks a jaxpr."""

    def __init__(self, shape: Shape):
        super().__init__(shape)
        self.called = ""  # where the function that is being read was called, if JAX kept no more

    def run(self, jaxpr: Any, consts: list, arguments: list) -> list:
        """The outputs of a jaxpr: values where they are known, Bounded where they are not."""
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
        if not any(isinstance(o, Bounded) for o in operands):
            out = equation.primitive.bind(*operands, **equation.params)
            return list(out) if equation.primitive.multiple_results else [out]
        if name in SAME:
            return operands
        if name in ("split", "unstack"):
            return self.cut(Step(equation, name, operands, _place(equation) or self.called))
        return [self.rule(equation, name, operands)]

    def rule(self, equation: Any, name: str, operands: list) -> Bounded:
        """One node for one equation, or the nodes that it is rewritten to."""
        step = Step(equation, name, operands, _place(equation) or self.called)
        if len(equation.outvars) > 1:
            return self.unsupported(step)
        if name in NONLINEAR or name in ("add", "sub"):
            step = Step(equation, name, [self.broadcast(o, step) for o in operands], step.place)
        found = self.affine(step) or self.scalar(step)
        for rewriting in (rewritings.maxima, rewritings.pooled, rewritings.matrices) if found is None else ():
            found = found or rewriting(self, step)
        return found or self.unsupported(step)

    def broadcast(self, operand: Any, step: Step) -> Any:
        """Operations entry by entry stretch axes of length one: an operand that depends on the image, stretched."""
        if not isinstance(operand, Bounded) or self.nodes[operand.number].shape == step.shape:
            return operand
        if self.nodes[operand.number].kind == "unsupported":
            return operand
        apply = partial(jnp.broadcast_to, shape=step.shape)
        kept = {"broadcast_dimensions": tuple(range(len(self.nodes[operand.number].shape)))}
        made = ("broadcast_in_dim", (operand,), kept)
        return self.add(Node("affine", (operand.number,), step.shape, apply, apply, place=step.place), made=made)

    def unsupported(self, step: Step) -> Bounded:
        inputs = tuple(o.number for o in step.operands if isinstance(o, Bounded))
        return self.add(Node("unsupported", inputs, step.shape, place=f"'{step.name}' {step.place}".strip()))

    # Affine operations.

    def affine(self, step: Step) -> Bounded | None:
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
        elif name in PLACED and set(bounded) <= set(PLACED[name]):
            mixing = int(name == "scatter-add")
        else:
            return None
        inputs = tuple(step.operands[i].number for i in bounded)
        node = Node("affine", inputs, step.shape, step.apply, step.spread(), mixing=mixing, place=step.place)
        return self.add(node, self.composed(step), (name, tuple(step.operands), step.params))

    # Scalar functions.

    def scalar(self, step: Step) -> Bounded | None:
        """A scalar function of one node, or a product of two nodes."""
        name = step.name
        if name in ("max", "min", "clamp") or name not in NONLINEAR:
            return None
        if name == "convert_element_type" and not step.floating:
            return None  # cuts off what is behind the point
        if name == "div" and 1 in step.bounded and (found := rewritings.softmax(self, step)):
            return found
        composed = self.composed(step)
        if name in ("mul", "div") and len(step.bounded) == 2 and not composed:
            return rewritings.product(self, step)
        if not composed:
            return None
        made = (name, tuple(step.operands), step.params)
        if name in PREDICATES:
            return self.add(Node("unsupported", (step.first,), step.shape, place=f"'{name}' {step.place}"), composed)
        source = next(iter(composed))
        if len(step.bounded) == 1:
            inside = self.terms[step.first]
            source = next((s for s in composed if not is_affine(inside[s])), source)
        if name == "select_n" and (found := rewritings.leaky(self, source, composed, step)):
            return found
        return self.add(
            Node("elementwise", (source,), step.shape, term=composed[source], place=step.place), composed, made
        )

    def cut(self, step: Step) -> list[Bounded]:
        """An array cut along an axis: one node for each piece."""

        def piece(z, number):
            return step.primitive.bind(z, **step.params)[number]

        shapes = [tuple(v.aval.shape) for v in step.equation.outvars]
        return [self.part(step.operands[0], partial(piece, number=i), s, step) for i, s in enumerate(shapes)]


def _place(equation: Any) -> str:
    """The line of the model that made an equation; nothing where JAX did not keep it, or keeps it elsewhere by now."""
    try:
        from jax._src import source_info_util

        frame = source_info_util.user_frame(equation.source_info.traceback)
    except (ImportError, AttributeError, TypeError):
        return ""
    where = f"{frame.file_name.rsplit('/', 1)[-1]}:{frame.start_line}" if frame else ""
    return f"({where})" if where else ""
