"""The graph that bounds are made on: nodes of a few kinds, in an order in which inputs come first.

What is not needed is left out, and an affine node that only one other affine node reads becomes part of it.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from robustbench_jax.ops.bounds.terms import Term
from robustbench_jax.types import UserError

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Node:
    """One value. inputs: the numbers of the nodes that it is made of. term: of an elementwise node, or None.

    mixing: how many times, one after another, an affine node adds up entries; where it is at most 1, intervals through
    `spread` are exact. positive: an affine node that adds up entries as they are, which may be of many orders of size:
    its intervals are made end by end, and nothing else bounds it, as a difference of large terms would be rounding.
    """

    kind: str
    inputs: tuple[int, ...]
    shape: Shape
    apply: Callable | None = None
    spread: Callable | None = None
    term: Term | None = None
    mixing: int = 0
    positive: bool = False
    place: str = ""


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in an order in which inputs come first; the input is node 0, the output the last one."""

    nodes: tuple[Node, ...]

    @property
    def output(self) -> int:
        return len(self.nodes) - 1


def needed(nodes: list[Node], output: int) -> list[Node]:
    """The nodes that the output depends on, numbered anew. Raises UserError for one without a rule."""
    wanted = {0, output}
    for number in range(output, 0, -1):
        if number in wanted:
            if nodes[number].kind == "unsupported":
                raise UserError(f"no bounds for the operation {nodes[number].place}")
            wanted |= set(nodes[number].inputs)
    order = {old: new for new, old in enumerate(sorted(wanted))}
    return [dataclasses.replace(nodes[o], inputs=tuple(order[i] for i in nodes[o].inputs)) for o in order]


def joined(nodes: list[Node]) -> tuple[Node, ...]:
    """With each affine node put into the affine node that alone reads it."""
    nodes = list(nodes)
    readers = [0] * len(nodes)
    for node in nodes:
        for number in node.inputs:
            readers[number] += 1
    for at, node in enumerate(nodes):
        if node.kind == "affine":
            nodes[at] = _absorb(node, nodes, readers)
    return tuple(needed(nodes, len(nodes) - 1))


def _absorb(node: Node, nodes: list[Node], readers: list[int]) -> Node:
    inner = [nodes[i] if nodes[i].kind == "affine" and readers[i] == 1 else None for i in node.inputs]
    if not any(inner):
        return node
    parts = [(1 if n is None else len(n.inputs)) for n in inner]
    inputs = tuple(k for i, n in zip(node.inputs, inner, strict=True) for k in ((i,) if n is None else n.inputs))

    def through(outer: Callable, functions: list) -> Callable:
        def composed(*values):
            given, arguments = iter(values), []
            for count, function in zip(parts, functions, strict=True):
                own = [next(given) for _ in range(count)]
                arguments.append(own[0] if function is None else function(*own))
            return outer(*arguments)

        return composed

    return dataclasses.replace(
        node,
        inputs=inputs,
        apply=through(node.apply, [n and n.apply for n in inner]),
        spread=through(node.spread, [n and n.spread for n in inner]),
        mixing=node.mixing + max(n.mixing for n in inner if n),
        positive=False,
    )
