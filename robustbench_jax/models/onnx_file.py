"""ONNX files as data: nodes, tensors, inputs and outputs, with nothing in them trusted.

Format: the Open Neural Network Exchange, https://onnx.ai. A file is a protocol buffer and runs nothing. What it may
still do is refused here: name external data outside of its own folder, claim tensors that are larger than their bytes,
and unfold functions without end. Only what the chosen output needs is read.
"""

import math
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from robustbench_jax.registry import nearest
from robustbench_jax.types import UserError

OLDEST = 7  # the first operator set with NumPy's broadcasting
MOST_NODES = 100_000
MOST_BYTES = 2**35
PLAIN = ("", "ai.onnx")  # the standard operators' domain


@dataclass(frozen=True)
class Node:
    """One operator. attributes: (name, value) pairs; name: for messages only, equal nodes may differ in it."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[tuple[str, Any], ...] = ()
    opset: int = 21
    name: str = field(default="", compare=False)

    def get(self, key: str, default: Any = None) -> Any:
        return next((value for name, value in self.attributes if name == key), default)

    def __str__(self) -> str:
        return f"{self.op} node '{self.name or ', '.join(self.outputs)}'"


@dataclass(frozen=True)
class Graph:
    """Nodes in order and tensors by name; input: the name and the sizes of the one input, None where left open."""

    path: str
    nodes: tuple[Node, ...]
    tensors: dict[str, np.ndarray]
    input: str
    sizes: tuple[int | None, ...]
    output: str
    about: dict[str, Any]


@dataclass(frozen=True)
class Branch:
    """A graph inside of a node, one branch of an If."""

    nodes: tuple[Node, ...]
    tensors: dict[str, np.ndarray]
    outputs: tuple[str, ...]


def read(path: str, output: str | None = None) -> Graph:
    """The graph of a file up to one output, or to any named value in it. Raises UserError for what is no such file."""
    model = _parse(path)
    opset = _opset(model, path)
    graph = _inlined(model, path).graph
    wanted = _output(graph, output, path)
    nodes, names = _needed(graph, wanted)
    own = {t.name for t in graph.initializer}
    inputs = [i for i in graph.input if i.name not in own and i.name in names]
    if len(inputs) != 1:
        told = ", ".join(f"'{i.name}'" for i in inputs) or "none"
        raise UserError(f"{path}: a classifier of images has one input; '{wanted}' depends on {len(inputs)}: {told}")
    reader = Tensors(path)
    producer = f"{model.producer_name} {model.producer_version}".strip()
    return Graph(
        path,
        tuple(_node(n, opset, reader) for n in nodes),
        _tensors(graph, names, reader),
        inputs[0].name,
        _sizes(inputs[0], path),
        wanted,
        {"producer": producer, "opset": opset, "input": _kind(inputs[0])},
    )


def _parse(path: str) -> Any:
    onnx = package()
    from google.protobuf.message import DecodeError

    try:
        if Path(path).is_dir():
            raise UserError(f"{path} is a directory; name the .onnx file in it")
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise UserError(f"{path} is no regular file")
        model = onnx.ModelProto.FromString(Path(path).read_bytes())
    except DecodeError:
        raise UserError(f"{path} is no ONNX file, or is cut short") from None
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    if not model.HasField("graph") or not model.graph.output or not model.opset_import:
        raise UserError(f"{path} is no ONNX file, or is cut short: it has no graph with an output")
    return model


def package() -> Any:
    """The onnx package, imported where a file is read and not before."""
    try:
        import onnx
    except ImportError:
        raise UserError("reading ONNX files needs the package onnx: pip install onnx") from None
    return onnx


def _opset(model: Any, path: str) -> int:
    opset = next((o.version for o in model.opset_import if o.domain in PLAIN), OLDEST)
    if opset < OLDEST:
        raise UserError(
            f"{path} is of operator set {opset}; {OLDEST} or later is needed: onnx.version_converter makes it one"
        )
    return opset


def _output(graph: Any, wanted: str | None, path: str) -> str:
    names = [o.name for o in graph.output]
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted is None:
        raise UserError(f'{path} has {len(names)} outputs; choose one: output="{names[0]}" or {", ".join(names[1:])}')
    values = {o for n in graph.node for o in n.output if o}
    if wanted not in values | set(names):
        raise UserError(f"{path} has no value '{wanted}'{nearest(wanted, names + sorted(values - set(names)))}")
    return wanted


def _needed(graph: Any, output: str) -> tuple[list, set[str]]:
    """The nodes that the output depends on, in order, and the names of all values that they read."""
    nodes, names = [], {output}
    for node in reversed(graph.node):
        if names & set(node.output):
            nodes.append(node)
            names |= set(_reads(node))
    return nodes[::-1], names


def _reads(node: Any) -> Iterable[str]:
    yield from node.input
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            yield from (o.name for o in inner.output)
            for child in inner.node:
                yield from _reads(child)


def _inlined(model: Any, path: str) -> Any:
    """The model without functions of its own. Their size is computed first: they may nest, each calling the last."""
    if not model.functions:
        return model
    from onnx import inliner

    bodies = {(f.domain, f.name): f.node for f in model.functions}
    known: dict[tuple, float] = {}

    def size(nodes: Any) -> float:
        return sum(1 + call((n.domain, n.op_type)) for n in nodes)

    def call(key: tuple) -> float:
        if key in bodies and key not in known:
            known[key] = math.inf  # what a function that calls itself finds
            known[key] = size(bodies[key])
        return known.get(key, 0)

    try:
        if len(bodies) > 500 or size(model.graph.node) > MOST_NODES:
            raise UserError(f"{path}: its functions unfold to more than {MOST_NODES} nodes")
        return inliner.inline_local_functions(model)
    except RuntimeError as error:
        raise UserError(f"{path}: its functions cannot be inlined: {str(error).splitlines()[0]}") from None


def _kind(value: Any) -> str:
    """What an input takes, e.g. "float", "double"."""
    kinds = {number: name for name, number in package().TensorProto.DataType.items()}
    return kinds.get(value.type.tensor_type.elem_type, "nothing known").lower()


def _sizes(value: Any, path: str) -> tuple[int | None, ...]:
    tensor, kind = value.type.tensor_type, _kind(value)
    if kind not in ("float", "float16", "double", "bfloat16"):
        raise UserError(f"{path}: input '{value.name}' takes {kind}; attacks need a floating-point input")
    if not tensor.HasField("shape"):
        raise UserError(f"{path}: input '{value.name}' has no shape; export the model with one")
    return tuple(d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in tensor.shape.dim)


def _node(node: Any, opset: int, reader: "Tensors") -> Node:
    op = node.op_type if node.domain in PLAIN else f"{node.domain}.{node.op_type}"
    attributes = sorted(((str(a.name), _attribute(a, opset, reader)) for a in node.attribute), key=lambda pair: pair[0])
    return Node(op, tuple(node.input), tuple(node.output), tuple(attributes), opset, node.name)


def _attribute(attribute: Any, opset: int, reader: "Tensors") -> Any:
    onnx = package()
    if attribute.type == onnx.AttributeProto.TENSOR:
        return reader.array(attribute.t)
    if attribute.type == onnx.AttributeProto.GRAPH:
        inner = attribute.g
        nodes = tuple(_node(n, opset, reader) for n in inner.node)
        return Branch(nodes, {t.name: reader.array(t) for t in inner.initializer}, tuple(o.name for o in inner.output))
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, int | float) else tuple(value) if isinstance(value, Iterable) else None


def _tensors(graph: Any, names: set[str], reader: "Tensors") -> dict[str, np.ndarray]:
    sparse = [t.values.name for t in graph.sparse_initializer if t.values.name in names]
    if sparse:
        raise UserError(f"{reader.path}: sparse tensor '{sparse[0]}' is not supported; store it dense")
    return {t.name: reader.array(t) for t in graph.initializer if t.name in names}


class Tensors:
    """Makes arrays of a file's tensors; floating-point ones become float32."""

    def __init__(self, path: str):
        self.path, self.folder, self.bytes = path, Path(path).absolute().parent.resolve(), 0

    def array(self, tensor: Any) -> np.ndarray:
        """Raises UserError where the bytes are not those of the claimed shape."""
        from onnx import TensorProto, helper, numpy_helper

        none = (TensorProto.UNDEFINED, TensorProto.STRING, TensorProto.COMPLEX64, TensorProto.COMPLEX128)
        if tensor.data_type in none or tensor.data_type not in TensorProto.DataType.values():
            raise UserError(f"{self.path}: tensor '{tensor.name}' holds no numbers")
        if min(tensor.dims, default=0) < 0:
            raise UserError(f"{self.path}: tensor '{tensor.name}' has a negative size: {list(tensor.dims)}")
        if tensor.data_location == TensorProto.EXTERNAL:
            dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
            return as_float32(self._external(tensor, dtype))
        try:
            return as_float32(np.array(numpy_helper.to_array(tensor)))
        except (ValueError, TypeError, OverflowError, MemoryError):
            raise UserError(
                f"{self.path}: tensor '{tensor.name}' is damaged: its values do not fill its shape {list(tensor.dims)}"
            ) from None

    def _external(self, tensor: Any, dtype: np.dtype) -> np.ndarray:
        told = {e.key: e.value for e in tensor.external_data}
        place, what = told.get("location", ""), f"{self.path}: external data of '{tensor.name}'"
        target = self._inside(place, what)
        try:
            start = int(told.get("offset", 0))
            count = math.prod(tensor.dims)
            length = int(told.get("length", count * dtype.itemsize))
            size = target.stat().st_size
        except (ValueError, OSError) as error:
            raise UserError(f"{what} cannot be read from '{place}': {error}") from None
        if length != count * dtype.itemsize:
            raise UserError(f"{what} has {length} bytes; {dtype} {list(tensor.dims)} takes {count * dtype.itemsize}")
        if start < 0 or start + length > size:
            raise UserError(f"{what} is cut short: '{place}' has {size} bytes, {start + length} are needed")
        self.bytes += length
        if self.bytes > MOST_BYTES:
            raise UserError(f"{self.path}: more than {MOST_BYTES >> 30} GiB of external data")
        return np.fromfile(target, dtype, count, offset=start).reshape(tuple(tensor.dims))

    def _inside(self, place: str, what: str) -> Path:
        """The file of that name in the folder of the model, where it is one after all links are followed."""
        target = (self.folder / place).resolve() if "\0" not in place else self.folder
        if not place or Path(place).is_absolute() or "\\" in place or not target.is_relative_to(self.folder):
            raise UserError(f"{what} lies outside of the folder of the file: '{place}' is refused")
        if not target.is_file():
            raise UserError(f"{what} is missing: there is no file '{place}' beside it")
        return target


def as_float32(value: np.ndarray) -> np.ndarray:
    """float16, bfloat16, float8 and double become float32; integers and booleans stay as they are."""
    if np.issubdtype(value.dtype, np.integer) or value.dtype == bool:
        return value
    integer = "int" in value.dtype.name  # ml_dtypes' int4 and uint4 are no NumPy integers
    with np.errstate(all="ignore"):
        return value.astype(np.int8 if integer else np.float32)
