"""Small ONNX files made on the spot, and what onnxruntime says about them."""

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402


def node(op: str, inputs: str, outputs: str = "y", **attributes):
    """Names are separated by blanks; `_` is an input that is left out."""
    return helper.make_node(op, [i.strip("_") for i in inputs.split()], outputs.split(), **attributes)


def model(
    nodes: list, sizes: tuple, tensors: dict | None = None, *, opset: int = 17, output="y", kind=TensorProto.FLOAT
):
    """A model with one input x and one output, or several for a list."""
    outputs = [output] if isinstance(output, str) else output
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("x", kind, sizes)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (tensors or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def save(made, directory: Path, name: str = "m.onnx") -> str:
    path = directory / name
    path.write_bytes(made.SerializeToString())
    return str(path)


def small_cnn(seed: int = 0, sizes: tuple = ("N", 3, 8, 8), opset: int = 13):
    """Conv, BatchNormalization, Relu, MaxPool, Shape -> Gather -> Concat -> Reshape, Gemm: ten classes."""
    random = np.random.default_rng(seed)

    def array(*shape):
        return random.normal(size=shape).astype(np.float32)

    tensors = {
        "k": array(6, 3, 3, 3),
        "kb": array(6),
        "scale": array(6),
        "bias": array(6),
        "mean": array(6),
        "variance": array(6) ** 2 + 1,
        "zero": np.array([0]),
        "rest": np.array([-1]),
        "w": array(10, 96) / 10,
        "wb": array(10),
    }
    nodes = [
        node("Conv", "x k kb", "c", pads=[1, 1, 1, 1]),
        node("BatchNormalization", "c scale bias mean variance", "b"),
        node("Relu", "b", "r"),
        node("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[2, 2]),
        node("Shape", "p", "shape"),
        node("Gather", "shape zero", "batch"),
        node("Concat", "batch rest", "flat_shape", axis=0),
        node("Reshape", "p flat_shape", "f"),
        node("Gemm", "f w wb", "y", transB=1),
    ]
    return model(nodes, sizes, tensors, opset=opset)


def by_runtime(path: str, x: np.ndarray, output: str | None = None) -> np.ndarray:
    """What onnxruntime computes."""
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None if output is None else [output], {session.get_inputs()[0].name: x})[0]
