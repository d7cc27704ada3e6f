"""An ONNX graph for one size of input: what is known is computed, what is left is a program and its weights.

Shape arithmetic, constants and whatever is made of weights only (a transposed kernel, dequantised integers) disappear.
The names of the file disappear too, so that two files of one graph are one program. Before anything is computed its
size is inferred, and refused where it is beyond MOST entries.
"""

import math
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from robustbench_jax.models import (
    onnx_attention,
    onnx_images,
    onnx_pointwise,
    onnx_reductions,
    onnx_resize,
    onnx_shapes,
)
from robustbench_jax.models.onnx_file import MOST_NODES, Branch, Graph, Node, as_float32
from robustbench_jax.models.onnx_operators import MOST, ChannelsLast, as_file, find, require_size, run
from robustbench_jax.types import UserError

TABLES = (
    onnx_attention,
    onnx_images,
    onnx_pointwise,
    onnx_reductions,
    onnx_resize,
    onnx_shapes,
)  # importing them fills OPERATORS
SMALL = 2**14  # entries
KNOWS_SHAPES = ("Shape", "Size", "EyeLike")
# Operators whose output has at most as many entries as the product of their inputs' numbers of entries.
MODEST = frozenset(
    "Shape Size Constant Identity Cast Gather Concat Unsqueeze Squeeze Slice Reshape Flatten Transpose Add Sub Mul Div "
    "Mod Neg Abs Floor Ceil Sqrt Min Max Equal Greater Less Not And Or Where ReduceProd ReduceSum".split()
)


@dataclass(frozen=True)
class Fixed:
    """An array that is part of the program: equal and hashed by value."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes = field(repr=False)

    @classmethod
    def of(cls, value: np.ndarray) -> "Fixed":
        return cls(str(value.dtype), value.shape, np.ascontiguousarray(value).tobytes())

    @property
    def array(self) -> np.ndarray:
        return np.frombuffer(self.data, self.dtype).reshape(self.shape)


@dataclass(frozen=True)
class Program:
    """Nodes in order, with names of their own for values; fixed: arrays by name; input and output: names."""

    nodes: tuple[Node, ...]
    fixed: tuple[tuple[str, Fixed], ...]
    input: str
    output: str

    def __call__(self, weights: dict[str, jax.Array], x: Any) -> jax.Array:
        """The output for one input, with the weights by name."""
        values = {**weights, **{name: it.array for name, it in self.fixed}, self.input: x, "": None}
        for node in self.nodes:
            values.update(zip(node.outputs, run(node, [values[name] for name in node.inputs]), strict=False))
        return as_file(values[self.output])


def program(graph: Graph, x: Any) -> tuple[Program, dict[str, np.ndarray], tuple[int, ...]]:
    """The program for inputs like `x` (a ShapeDtypeStruct, maybe in ChannelsLast), its weights, the output's shape.

    Raises UserError, which names the node, for operators that are not here and for inputs that do not suit them.
    """
    folding = Folding(graph, x)
    queue, count = deque(graph.nodes), 0
    while queue:
        node = queue.popleft()
        count += 1
        if count > MOST_NODES:
            raise UserError(f"it has more than {MOST_NODES} nodes")
        queue.extendleft(reversed(folding.take(node)))
    return folding.finish()


class Folding:
    """values: by the file's names, a NumPy array where known, else shape and type."""

    def __init__(self, graph: Graph, x: Any):
        self.graph = graph
        self.values: dict[str, Any] = {"": None, graph.input: x} | graph.tensors
        self.weights = set(graph.tensors)  # the tensors, and what is computed of them
        self.kept: list[Node] = []
        self.computed = 0

    def take(self, node: Node) -> tuple[Node, ...]:
        """Computes or keeps one node; returns the nodes that stand for it, if it is a branch."""
        for name in node.inputs:
            if name not in self.values:
                raise UserError(f"{node} reads '{name}', which nothing before it makes")
        if node.op == "If":
            return self._branch(node)
        inputs = [self.values[name] for name in node.inputs]
        if node.op in KNOWS_SHAPES or all(v is None or isinstance(v, np.ndarray) for v in inputs):
            shapes = self._compute(node, inputs)
            if any(name in self.weights for name in node.inputs):
                self.weights |= set(node.outputs)
        else:
            shapes = self._infer(node, inputs)
            self.kept.append(node)
        self.values |= dict(zip(node.outputs, shapes, strict=False)) | {"": None}
        return ()

    def _branch(self, node: Node) -> tuple[Node, ...]:
        """The nodes of an If whose condition is known, and copies of their outputs under the If's names."""
        condition = self.values[node.inputs[0]]
        if not isinstance(condition, np.ndarray):
            raise UserError(f"{node} depends on the pixels of the image; that is not supported")
        branch = node.get("then_branch" if condition.all() else "else_branch")
        if not isinstance(branch, Branch):
            raise UserError(f"{node} lacks a branch")
        self.values |= branch.tensors
        self.weights |= set(branch.tensors)
        ends = (Node("Identity", (a,), (b,), opset=node.opset) for a, b in zip(branch.outputs, node.outputs))  # noqa: B905
        return (*branch.nodes, *ends)

    def _infer(self, node: Node, inputs: list) -> tuple:
        """Shapes and types of the outputs; UserError where the operator does not take these inputs."""
        fixed = find(node).fixed
        known = [isinstance(v, np.ndarray) and i in fixed for i, v in enumerate(inputs)]
        traced = [None if k or v is None else _spec(v) for k, v in zip(known, inputs, strict=True)]

        def apply(traced):
            return run(node, [v if k else t for k, v, t in zip(known, inputs, traced, strict=True)])

        with self._blaming(node, inputs):
            shapes = jax.eval_shape(apply, traced)
        for out in shapes:
            require_size(node, math.prod(out.shape))
        return shapes

    def _compute(self, node: Node, inputs: list) -> tuple:
        """The outputs as arrays. Their size is inferred first, but for the many small steps of shape arithmetic."""
        bound = math.prod(max(v.size, 1) for v in inputs if isinstance(v, np.ndarray))
        if node.op != "ScatterND" and (node.op not in MODEST or bound > SMALL):
            self.computed += sum(math.prod(s.shape) for s in self._infer(node, inputs))
        if self.computed > 4 * MOST:
            raise UserError(f"its constants unfold to more than {4 * MOST:.1e} numbers, at {node}")
        with self._blaming(node, inputs):
            return tuple(as_float32(np.asarray(as_file(v))) for v in run(node, inputs))

    @contextmanager
    def _blaming(self, node: Node, inputs: list) -> Iterator[None]:
        """Whatever an operator raises on inputs that do not suit it, as a UserError."""
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
                yield
        except UserError:
            raise
        except Exception as error:
            reason = str(error).strip().splitlines()
            sizes = ", ".join("none" if v is None else str(list(v.shape)) for v in inputs)
            told = reason[0] if reason else type(error).__name__
            raise UserError(f"{node} does not take inputs of shape {sizes}: {told}") from error

    def finish(self) -> tuple[Program, dict[str, np.ndarray], tuple[int, ...]]:
        """The nodes that the output needs, renamed, with the known arrays that they read."""
        out = self.values[self.graph.output]
        if isinstance(out, np.ndarray):
            raise UserError(f"'{self.graph.output}' does not depend on the image")
        nodes, needed = [], {self.graph.output}
        for node in reversed(self.kept):
            if needed & set(node.outputs):
                nodes.append(node)
                needed |= set(node.inputs)
        renaming = _Renaming(self)
        nodes = tuple(renaming.renamed(i, node) for i, node in enumerate(reversed(nodes)))
        fixed = tuple((name, Fixed.of(value)) for name, value in renaming.fixed.items())
        names = renaming.names
        return Program(nodes, fixed, names[self.graph.input], names[self.graph.output]), renaming.weights, out.shape


class _Renaming:
    """Names by position: value 3.0 is the first output of node 3, weight 3.Conv.1 the second input of node 3."""

    def __init__(self, folding: Folding):
        self.folding = folding
        self.names = {"": "", folding.graph.input: "x"}
        self.weights: dict[str, np.ndarray] = {}
        self.fixed: dict[str, np.ndarray] = {}

    def renamed(self, index: int, node: Node) -> Node:
        if node.op == "Conv" and isinstance(self.folding.values[node.inputs[1]], np.ndarray):
            node = self._with_turned_kernel(node)
        inputs = tuple(self._name(f"{index}.{node.op}.{slot}", node, slot) for slot in range(len(node.inputs)))
        outputs = tuple(f"{index}.{i}" for i in range(len(node.outputs)))
        self.names |= dict(zip(node.outputs, outputs, strict=True)) | {"": ""}
        return replace(node, inputs=inputs, outputs=outputs)

    def _with_turned_kernel(self, node: Node) -> Node:
        name, own = node.inputs[1], f"{node.inputs[1]} {onnx_images.TURNED}"
        self.folding.values[own] = onnx_images.turned(self.folding.values[name])
        self.folding.weights |= {own}
        attributes = tuple(sorted((*node.attributes, (onnx_images.TURNED, 1))))
        return replace(node, inputs=(node.inputs[0], own, *node.inputs[2:]), attributes=attributes)

    def _name(self, suggested: str, node: Node, slot: int) -> str:
        """Floating-point weights are parameters; what an operator wants fixed, integers and lone constants are not."""
        name = node.inputs[slot]
        value = self.folding.values[name]
        if not isinstance(value, np.ndarray):
            return self.names[name]
        program = slot in find(node).fixed or value.dtype.kind != "f"
        program |= value.size <= 1 and name not in self.folding.weights
        name = f"{name} fixed" if program else name
        if name not in self.names:
            self.names[name] = suggested
            (self.fixed if program else self.weights)[suggested] = value
        return self.names[name]


def _spec(value: Any) -> Any:
    if isinstance(value, ChannelsLast | jax.ShapeDtypeStruct):
        return value
    return jax.ShapeDtypeStruct(value.shape, jax.dtypes.canonicalize_dtype(value.dtype))
