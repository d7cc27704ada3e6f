"""Nodes in the making: one equation of a jaxpr at a time, and what is remembered of the nodes made so far."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from robustbench_jax.ops.bounds.nodes import Node, Shape
from robustbench_jax.ops.bounds.ranges import NONLINEAR
from robustbench_jax.ops.bounds.terms import Known, Source, Term

BILINEAR = {"dot_general", "conv_general_dilated", "conv", "conv_input_gradient", "conv_kernel_gradient"}
JOINING = {"add", "add_any", "sub", "concatenate", "stack", "pad"}
PLACED = {  # which operands hold values; the others say where these go
    "select_n": (1, 2),
    "dynamic_update_slice": (0, 1),
    "scatter": (0, 2),
    "scatter-add": (0, 2),
}


@dataclass(frozen=True)
class Bounded:
    """A value that depends on the image, by the number of its node."""

    number: int


class Step:
    """One equation with its operands."""

    def __init__(self, equation: Any, name: str, operands: list, place: str):
        self.equation, self.name, self.operands = equation, name, operands
        self.primitive, self.params = equation.primitive, equation.params
        self.shape = tuple(equation.outvars[0].aval.shape)
        self.floating = jnp.issubdtype(equation.outvars[0].aval.dtype, jnp.floating)
        self.bounded = [i for i, o in enumerate(operands) if isinstance(o, Bounded)]
        self.first = operands[self.bounded[0]].number
        self.place = place

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
            known = [o if isinstance(o, Bounded) else jnp.abs(o) for o in self.operands]
        elif name in JOINING or name in PLACED:
            places = PLACED.get(name, range(len(self.operands)))
            known = [
                jnp.zeros_like(o) if i in places and not isinstance(o, Bounded) else o
                for i, o in enumerate(self.operands)
            ]
        else:
            known = self.operands
        return lambda *radii: self.bind(self.params, radii, known)


class Shaped:
    """Where a rewriting's nodes come from, and the shape of the one at hand."""

    def __init__(self, step: Any, shape: Shape):
        self.place, self.shape = step.place, shape


class Builder:
    """nodes: what was made; made[k]: by which operation; terms[k]: node k as a scalar function of other nodes, of
    itself first and then from the nearest to the farthest.
    """

    def __init__(self, shape: Shape):
        self.nodes: list[Node] = []
        self.terms: list[dict[int, Any]] = []
        self.made: list[tuple[str, tuple, dict]] = []
        self.add(Node("input", (), shape))

    def add(self, node: Node, terms: dict[int, Any] | None = None, made: tuple = ("", (), {})) -> Bounded:
        self.nodes.append(node)
        number = len(self.nodes) - 1
        self.terms.append({number: Source()} | (terms or {}))
        self.made.append(made)
        return Bounded(number)

    def line(self, number: int, apply: Callable, step: Step) -> Bounded:
        """A line of slope 1 or -1 through one node."""
        shape = self.nodes[number].shape
        return self.add(Node("affine", (number,), shape, apply, lambda r: r, place=step.place))

    def part(self, node: Bounded, apply: Callable, shape: Shape, step: Any) -> Bounded:
        return self.add(Node("affine", (node.number,), shape, apply, apply, place=step.place))

    def composed(self, step: Step) -> dict[int, Any]:
        """The operation as a term of each node that all of its operands are scalar functions of."""
        if step.name not in NONLINEAR and step.name not in ("add", "sub", "neg", "add_any"):
            return {}
        operands = [step.operands[i].number for i in step.bounded]
        if any(self.nodes[number].shape != step.shape for number in operands):
            return {}
        found = {}
        for source in self.terms[operands[0]]:
            if all(source in self.terms[number] for number in operands) and self.nodes[source].shape == step.shape:
                own = [self.terms[o.number][source] if isinstance(o, Bounded) else Known(o) for o in step.operands]
                found[source] = Term(step.primitive, tuple(step.params.items()), tuple(own))
        return found
