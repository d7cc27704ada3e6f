"""The table of ONNX operators, and how one of them runs.

An operator is a function of a node and its inputs, after the operator's page in https://onnx.ai/onnx/operators. Inputs
that are NumPy arrays are known when the file is read (weights, shapes); all others are traced. Everything that is made
of known values only is computed once, by the same function, in NumPy where it is about shapes.

Images stay channels last from one operator to the next (`ChannelsLast`), as `ops.layers.conv` wants them, although the
file speaks of [N, C, H, W]; operators that know nothing of this get them as the file means them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.models.onnx_file import Node
from robustbench_jax.registry import nearest
from robustbench_jax.types import UserError


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True)
class ChannelsLast:
    """[N, H, W, C], standing for what the file calls [N, C, H, W]."""

    array: jax.Array

    def tree_flatten(self) -> tuple:
        return (self.array,), None

    @classmethod
    def tree_unflatten(cls, _: None, children: tuple) -> "ChannelsLast":
        return cls(*children)

    @property
    def shape(self) -> tuple[int, ...]:
        n, h, w, c = self.array.shape
        return n, c, h, w


@dataclass(frozen=True)
class Operator:
    """run(node, *inputs) -> output or tuple of outputs.

    images: the first input comes channels last, of any rank, and so does the output. pointwise: works entry by entry,
    with NumPy's broadcasting. fixed: inputs that are part of the program (shapes, axes) and not weights.
    """

    run: Callable
    images: bool = False
    pointwise: bool = False
    fixed: tuple[int, ...] = ()


OPERATORS: dict[str, Operator] = {}
MOST = 2**28  # entries of one value


def operator(*names: str, **facts: Any) -> Callable:
    """Enters a function in the table."""

    def decorate(run: Callable) -> Callable:
        OPERATORS.update(dict.fromkeys(names, Operator(run, **facts)))
        return run

    return decorate


def find(node: Node) -> Operator:
    """UserError for an operator that is not in the table."""
    if node.op not in OPERATORS:
        close = nearest(node.op, OPERATORS)
        hint = close if "did you mean" in close else ""
        raise UserError(
            f"ONNX operator {node.op} ({node}) is not supported{hint.replace('did you mean', 'the nearest here is')}; "
            "export without it, end at a value before it with output=, or add it to models/onnx_*.py"
        )
    return OPERATORS[node.op]


def run(node: Node, inputs: list) -> tuple:
    """The outputs of one node; None stands for an input that is left out."""
    op = find(node)
    if op.images and inputs:
        first, *rest = inputs
        out = op.run(node, to_last(first), *map(as_file, rest))
        return from_last(out)
    if op.pointwise and any(isinstance(i, ChannelsLast) for i in inputs):
        if all(np.ndim(i) <= 4 for i in inputs if not isinstance(i, ChannelsLast)):
            return (ChannelsLast(op.run(node, *map(_aligned, inputs))),)
    out = op.run(node, *(i if op.run in AWARE else as_file(i) for i in inputs))
    return out if isinstance(out, tuple) else (out,)


AWARE: set[Callable] = set()


def aware(run: Callable) -> Callable:
    """Marks an operator that takes ChannelsLast as it comes."""
    AWARE.add(run)
    return run


def as_file(value: Any) -> Any:
    """The array with the dimensions in the file's order."""
    return jnp.moveaxis(value.array, -1, 1) if isinstance(value, ChannelsLast) else value


def to_last(value: Any) -> jax.Array:
    """[N, C, ...] -> [N, ..., C]."""
    return value.array if isinstance(value, ChannelsLast) else jnp.moveaxis(jnp.asarray(value), 1, -1)


def from_last(value: jax.Array) -> tuple:
    return (ChannelsLast(value) if value.ndim == 4 else jnp.moveaxis(value, -1, 1),)


def _aligned(value: Any) -> Any:
    """An operand beside channels-last ones: [C, 1, 1] becomes [1, 1, 1, C]."""
    if isinstance(value, ChannelsLast):
        return value.array
    if value is None or np.ndim(value) == 0:
        return value
    whole = value.reshape((1,) * (4 - value.ndim) + value.shape)
    return whole.transpose(0, 2, 3, 1)


def array_module(*values: Any) -> Any:
    """NumPy where all values are known, so that shapes stay known and 64 bits wide; else jax.numpy."""
    return np if all(v is None or isinstance(v, np.ndarray | np.generic) for v in values) else jnp


def whole(node: Node, value: Any, what: str) -> tuple[int, ...]:
    """A known list of whole numbers. UserError where the value depends on the image."""
    return tuple(int(v) for v in known(node, value, what).reshape(-1))


def known(node: Node, value: Any, what: str) -> np.ndarray:
    if isinstance(value, ChannelsLast | jax.Array):
        raise UserError(f"{node}: its {what} depends on the pixels of the image; it must be fixed in the file")
    return np.asarray(value)


def axes_of(node: Node, given: Any, rank: int, key: str = "axes") -> tuple[int, ...] | None:
    """Axes from an input or, in older files, an attribute; None where there are none."""
    axes = node.get(key) if given is None else whole(node, given, key)
    if axes is None:
        return None
    return tuple(axis_of(node, a, rank) for a in ((axes,) if isinstance(axes, int) else axes))


def axis_of(node: Node, axis: int, rank: int) -> int:
    if not -rank <= axis < max(rank, 1):
        raise UserError(f"{node}: axis {axis} is outside of {rank} dimensions")
    return axis % max(rank, 1)


def require_size(node: Node, count: float) -> None:
    """UserError for a value with absurdly many entries."""
    if not count <= MOST:
        raise UserError(f"{node} makes {count:.1e} numbers; the limit is {MOST:.1e}")
