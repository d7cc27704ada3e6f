"""Every ONNX operator against onnxruntime on small graphs, and against the cases that the onnx package publishes."""

import warnings

import jax
import numpy as np
import pytest

from robustbench_jax.models import onnx_file, onnx_graph
from robustbench_jax.models.onnx_operators import OPERATORS, ChannelsLast
from robustbench_jax.types import UserError
from tests.models.onnx_made import by_runtime, model, node, numpy_helper, onnx, save

RANDOM = np.random.default_rng(0)
IMAGE = (1, 4, 7, 8)


def array(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


def ints(*values):
    return np.array(values, np.int64)


def case(op, inputs="x", tensors=None, sizes=IMAGE, opset=17, outputs="y", **attributes):
    name = f"{op}-{opset}-{'x'.join(map(str, sizes))}-{'-'.join(f'{k}={v}' for k, v in attributes.items())}"
    return pytest.param(([node(op, inputs, outputs, **attributes)], sizes, tensors or {}, opset), id=name)


def conv(window=(3, 3), ins=4, outs=6, sizes=IMAGE, **attributes):
    tensors = {"k": array(outs, ins // attributes.get("group", 1), *window), "b": array(outs)}
    return case("Conv", "x k b", tensors, sizes, **attributes)


def deconv(window=(3, 3), outs=4, sizes=IMAGE, **attributes):
    group = attributes.get("group", 1)
    return case(
        "ConvTranspose", "x k b", {"k": array(4, outs // group, *window), "b": array(outs)}, sizes, **attributes
    )


CONVOLUTIONS = [
    conv(),
    conv(strides=[2, 1], pads=[1, 0, 2, 1]),
    conv((4, 2), strides=[2, 2], auto_pad="SAME_UPPER"),
    conv((4, 2), strides=[2, 2], auto_pad="SAME_LOWER"),
    conv((2, 2), strides=[3, 3], auto_pad="VALID"),
    conv(dilations=[2, 2], pads=[2, 2, 2, 2]),
    conv(group=2, pads=[1, 1, 1, 1]),
    conv(outs=4, group=4, strides=[2, 2], pads=[1, 1, 1, 1]),
    conv(outs=4, group=4, dilations=[2, 1], pads=[2, 0, 1, 1]),
    conv((5, 6), outs=4, group=4),
    conv((3,), outs=4, sizes=(1, 4, 9), group=4, strides=[2]),
    conv(ins=18, outs=36, sizes=(1, 18, 6, 6), group=9, strides=[1, 2]),
    conv(outs=8, group=4),
    conv((1, 1)),
    conv((3,), sizes=(1, 4, 9), pads=[1, 1], strides=[2]),
    conv((2, 2, 2), sizes=(1, 4, 4, 5, 6), dilations=[1, 2, 1]),
    deconv(),
    deconv(strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
    deconv((2, 3), strides=[2, 3], group=2, dilations=[2, 1]),
    deconv(strides=[2, 2], auto_pad="SAME_UPPER"),
    deconv(strides=[2, 2], output_shape=[14, 16], auto_pad="SAME_LOWER"),
    case("ConvTranspose", "x k", {"k": array(4, 3, 3)}, (1, 4, 9), strides=[2]),
]
POOLS = [
    case(op, kernel_shape=list(window), **attributes)
    for op in ("MaxPool", "AveragePool")
    for window, attributes in (
        ((2, 2), {}),
        ((2, 2), {"strides": [2, 2]}),
        ((3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ((3, 2), {"strides": [2, 3], "ceil_mode": 1}),
        ((3, 3), {"strides": [3, 3], "pads": [1, 1, 0, 1], "ceil_mode": 1}),
        ((3, 3), {"strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    )
]
POOLS += [
    case("MaxPool", kernel_shape=[2, 2], dilations=[2, 3], strides=[1, 2], pads=[1, 1, 1, 1]),
    case("AveragePool", opset=19, kernel_shape=[2, 2], dilations=[2, 3]),
    case("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1),
    case(
        "AveragePool",
        opset=19,
        kernel_shape=[3, 3],
        strides=[3, 3],
        pads=[1, 1, 1, 1],
        count_include_pad=1,
        ceil_mode=1,
    ),
    case("AveragePool", sizes=(1, 4, 9), kernel_shape=[3], strides=[2]),
    case("MaxPool", sizes=(1, 2, 4, 5, 6), kernel_shape=[2, 2, 2]),
    case("LpPool", kernel_shape=[2, 2], strides=[2, 2], p=3, opset=11),
    case("GlobalAveragePool"),
    case("GlobalMaxPool"),
    case("GlobalLpPool"),
]
POINTWISE = [
    case(op)
    for op in (
        "Abs Atan Ceil Cos Cosh Erf Exp Floor HardSwish Identity Mish Neg Reciprocal Relu Round Selu Sigmoid Sign Sin "
        "Sinh Softplus Softsign Tanh Elu LeakyRelu HardSigmoid Celu ThresholdedRelu Shrink"
    ).split()
    if op != "Mish"
]
POINTWISE += [
    case("Mish", opset=18),
    case("Gelu", opset=20),
    case("Gelu", opset=20, approximate="tanh"),
    case("Elu", alpha=0.3),
    case("LeakyRelu", alpha=0.2),
    case("HardSigmoid", alpha=0.3, beta=0.4),
    case("Selu", alpha=1.2, gamma=0.9),
    case("ThresholdedRelu", alpha=0.1),
    case("Clip", opset=7, min=-0.5, max=0.5),
    case("Clip", "x low high", {"low": np.float32(-0.5), "high": np.float32(0.5)}),
    case("Clip", "x _ high", {"high": np.float32(0.5)}),
    case("PRelu", "x slope", {"slope": array(4, 1, 1)}),
    case("PRelu", "x slope", {"slope": array(1)}),
    case("Dropout", opset=7, ratio=0.5),
    case("Dropout"),
    case("Cast", to=1),
    *(case(op, "x b", {"b": array(4, 1, 1)}) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean")),
    *(case(op, "b x", {"b": array(8)}) for op in ("Add", "Sub", "Div")),
    case("Add", "x b", {"b": array(1, 4, 1, 1)}),
    case("Add", "x b", {"b": array(3, 1, 4, 7, 8)}),
    *(case("Pow", "x e", {"e": np.float32(e)}) for e in (2, 3, -1)),
    case("Mod", "x b", {"b": np.float32(0.7)}, fmod=1),
]
NORMS = [
    case(
        "BatchNormalization",
        "x s b m v",
        {"s": array(4), "b": array(4), "m": array(4), "v": array(4) ** 2},
        epsilon=1e-3,
    ),
    case("BatchNormalization", "x s b m v", {"s": array(6), "b": array(6), "m": array(6), "v": array(6) ** 2}, (1, 6)),
    case("InstanceNormalization", "x s b", {"s": array(4), "b": array(4)}),
    case("LayerNormalization", "x s b", {"s": array(8), "b": array(8)}),
    case("LayerNormalization", "x s", {"s": array(7, 8)}, axis=2, epsilon=1e-2),
    case("GroupNormalization", "x s b", {"s": array(4), "b": array(4)}, opset=21, num_groups=2),
    case("LRN", size=3, alpha=0.1, beta=0.5, bias=2.0),
    case("LpNormalization", axis=1, p=2),
    case("LpNormalization", axis=-1, p=1),
    case("MeanVarianceNormalization", opset=13),
    *(case(op, opset=opset, axis=1) for op in ("Softmax", "LogSoftmax") for opset in (11, 13)),
    case("Softmax"),
    case("Softmax", opset=11),
    case("Hardmax", axis=1),
]
MATRICES = [
    case("Gemm", "x w b", {"w": array(8, 5), "b": array(5)}, (3, 8)),
    case("Gemm", "x w b", {"w": array(5, 3), "b": array(1)}, (3, 8), transA=1, transB=1, alpha=0.5, beta=2.0),
    case("Gemm", "x w", {"w": array(8, 5)}, (3, 8), opset=11),
    case("MatMul", "x w", {"w": array(8, 5)}),
    case("MatMul", "w x", {"w": array(5, 7)}),
    case("MatMul", "x w", {"w": array(8)}, (8,)),
    case("Einsum", "x w", {"w": array(4, 3)}, equation="nchw,cd->ndhw"),
]
REDUCES = [
    case(f"Reduce{name}", **attributes)
    for name in ("L1", "L2", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
    for attributes in ({"axes": [2, 3], "keepdims": 0}, {"axes": [-1]}, {})
]
REDUCES += [
    case("ReduceSum", "x axes", {"axes": ints(1, -1)}, keepdims=0),
    case("ReduceSum", opset=11, axes=[2]),
    case("ReduceSum", noop_with_empty_axes=1),
    case("ReduceMean", "x axes", {"axes": ints(2, 3)}, opset=18),
    case("CumSum", "x axis", {"axis": np.array(2)}, exclusive=1, reverse=1),
    case("ArgMax", axis=1, keepdims=0),
    case("ArgMin", axis=-1, select_last_index=1),
]
MOVES = [
    case("Concat", "x b", {"b": array(1, 2, 7, 8)}, axis=1),
    case("Concat", "x x", axis=-1),
    case("Reshape", "x s", {"s": ints(0, -1, 8)}),
    case("Flatten"),
    case("Flatten", axis=-1),
    case("Flatten", axis=0),
    case("Transpose", perm=[0, 2, 3, 1]),
    case("Transpose"),
    case("Squeeze", opset=11, axes=[0]),
    case("Squeeze", "x axes", {"axes": ints(0)}),
    case("Squeeze"),
    case("Unsqueeze", opset=11, axes=[0, 5]),
    case("Unsqueeze", "x axes", {"axes": ints(-1, 1)}),
    case("Pad", opset=7, pads=[0, 0, 1, 2, 0, 0, 3, 0], value=0.5),
    case("Pad", opset=7, pads=[0, 0, 1, 2, 0, 0, 3, 0], mode="reflect"),
    case("Pad", "x p v", {"p": ints(0, 1, 1, 2, 0, 0, -1, 0), "v": np.float32(2)}),
    case("Pad", "x p", {"p": ints(0, 0, 1, 2, 0, 0, 3, 0)}, mode="edge"),
    case("Pad", "x p _ a", {"p": ints(1, 2, 3, 0), "a": ints(3, -2)}, opset=18, mode="reflect"),
    case("Slice", opset=7, starts=[1, -3], ends=[3, 9999], axes=[1, 3]),
    case("Slice", "x s e a t", {"s": ints(1, -1), "e": ints(2**63 - 1, -(2**63)), "a": ints(2, 3), "t": ints(2, -3)}),
    case("Slice", "x s e", {"s": ints(0, 1), "e": ints(1, -1)}),
    case("Split", opset=11, axis=1, split=[1, 3], outputs="y z"),
    case("Split", "x s", {"s": ints(3, 4)}, axis=2, outputs="z y"),
    case("Split", axis=-1, outputs="z y"),
    case("Split", opset=18, axis=2, num_outputs=2, outputs="z y"),
    case("Expand", "x s", {"s": ints(3, 1, 7, 1)}),
    case("Tile", "x r", {"r": ints(1, 2, 1, 3)}),
    case("Gather", "x i", {"i": ints(2, -1)}, axis=1),
    case("Gather", "x i", {"i": np.array(1)}, axis=2),
    case("GatherElements", "x i", {"i": np.zeros((1, 4, 2, 8), np.int64) - 1}, axis=2),
    case("GatherND", "x i", {"i": np.array([[0, 1], [0, 3]])}),
    case("ScatterND", "x i u", {"i": np.array([[0, 1], [0, 3]]), "u": array(2, 7, 8)}),
    case("Attention", "x k v", {"k": array(1, 2, 6, 4), "v": array(1, 2, 6, 3)}, (1, 2, 5, 4), opset=23),
    case("DepthToSpace", blocksize=2),
    case("DepthToSpace", blocksize=2, mode="CRD"),
    case("SpaceToDepth", sizes=(1, 4, 6, 8), blocksize=2),
    case("Trilu", "x k", {"k": np.array(1)}, upper=0),
    case("Where", "c x b", {"c": array(1, 4, 1, 8) > 0, "b": array(4, 1, 1)}),
]
RESIZES = [
    case("Resize", "x _ s", {"s": np.array(scales, np.float32)}, mode=mode, coordinate_transformation_mode=how, **more)
    for scales in ((1, 1, 2, 2), (1, 1, 0.6, 1.7))
    for mode, how, more in (
        ("nearest", "asymmetric", {"nearest_mode": "floor"}),
        ("nearest", "half_pixel", {}),
        ("nearest", "half_pixel", {"nearest_mode": "round_prefer_ceil"}),
        ("linear", "half_pixel", {}),
        ("linear", "pytorch_half_pixel", {}),
        ("linear", "align_corners", {}),
        ("linear", "asymmetric", {}),
        ("cubic", "half_pixel", {"cubic_coeff_a": -0.5}),
        ("cubic", "half_pixel", {"exclude_outside": 1}),
    )
]
RESIZES += [
    case("Resize", "x _ _ s", {"s": ints(1, 4, 14, 5)}, mode="linear"),
    case("Resize", "x _ _ s", {"s": ints(14, 5)}, opset=18, axes=[2, 3], keep_aspect_ratio_policy="not_larger"),
    case("Resize", "x s", {"s": np.array([1, 1, 2, 2], np.float32)}, opset=10, mode="nearest"),
    case("Upsample", "x s", {"s": np.array([1, 1, 2, 3], np.float32)}, opset=9, mode="nearest"),
]
CASES = CONVOLUTIONS + POOLS + POINTWISE + NORMS + MATRICES + REDUCES + MOVES + RESIZES


def ours(path: str, x: np.ndarray, output: str = "y", both: bool = True) -> np.ndarray:
    """The file's program; both: images also go in with channels last, and both answers are one."""
    graph = onnx_file.read(path, output)
    program, weights, shape = onnx_graph.program(graph, jax.ShapeDtypeStruct(x.shape, x.dtype))
    out = np.asarray(jax.jit(program)(weights, x))
    assert out.shape == shape
    if x.ndim == 4 and both:
        last = ChannelsLast(np.ascontiguousarray(np.moveaxis(x, 1, -1)))
        spec = ChannelsLast(jax.ShapeDtypeStruct(last.array.shape, x.dtype))
        program, weights, _ = onnx_graph.program(graph, spec)
        np.testing.assert_allclose(jax.jit(program)(weights, last), out, rtol=1e-4, atol=1e-5)
    return out


@pytest.mark.parametrize("made", CASES)
def test_an_operator_computes_what_onnxruntime_does(made, tmp_path):
    nodes, sizes, tensors, opset = made
    path = save(model(nodes, sizes, tensors, opset=opset), tmp_path)
    x = np.random.default_rng(1).normal(size=sizes).astype(np.float32)
    try:
        expected = by_runtime(path, x, "y")
    except Exception:  # the output's type is not float32
        made = model([*nodes, node("Cast", "y", "z_", to=1)], sizes, tensors, opset=opset, output="z_")
        path = save(made, tmp_path)
        expected = by_runtime(path, x, "z_")
    np.testing.assert_allclose(ours(path, x), expected, rtol=1e-4, atol=1e-5)


def test_a_mask_that_is_scattered_from_constants_is_a_constant(tmp_path):
    at = np.array([[[0, 1]], [[0, 2]]])
    tensors = {"zero": np.zeros((1, 4), np.float32), "at": at, "u": np.array([[2.0], [3.0]], np.float32)}
    path = save(model([node("ScatterND", "zero at u", "mask"), node("Add", "x mask")], (1, 4), tensors), tmp_path)
    np.testing.assert_array_equal(ours(path, np.zeros((1, 4), np.float32)), [[0, 2, 3, 0]])


# What the published cases want and this reader does not do, by the start of their names.
LEFT_OUT = (
    "test_batchnorm_example_training",  # training mode
    "test_batchnorm_epsilon_training",
    "test_training_dropout",
    "test_dequantizelinear_blocked",  # quantisation in blocks, and to less than 8 bits
    "test_quantizelinear_blocked",
    "test_reduce_max_empty_set",  # the maximum of nothing
    "test_reduce_min_empty_set",
    "test_resize_tf_crop_and_resize",
    "test_resize_downsample_scales_linear_align_corners",  # onnxruntime and PyTorch differ from the published answer
    "test_resize_downsample_scales_cubic_align_corners",
    "test_averagepool_2d_ceil_last_window_starts_on_pad",  # published to four digits
)
LESS_THAN_FLOAT = (
    "FLOAT8",
    "FLOAT4",
    "INT4",
    "INT2",
    "BFLOAT16",
    "bf16",
    "bfloat16",
    "_e4m3fn",
    "_e5m2",
    "int4",
    "int2",
)
KNOWN_ONLY = ("Shape", "Size")
WORDS = (
    "antialias",
    "string",
    "_window",
    "with_past",
    "qk_matmul",
    "padded_kv",
)  # the last four: attention in windows or with a cache


def published() -> list:
    """The cases of the onnx package for operators that are in the table, of tensors of numbers, by operator."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = [c for c in collect_testcases(None) if len(c.model.graph.node) == 1]
    found = []
    for c in cases:
        (one,) = c.model.graph.node
        left_out = c.name.startswith(LEFT_OUT) or any(word in c.name for word in (*LESS_THAN_FLOAT, *WORDS))
        left_out |= one.op_type == "Attention" and any(one.input[4:])
        if one.op_type in OPERATORS and one.op_type not in KNOWN_ONLY and one.domain == "" and not left_out:
            found.append(c)
    return found


def as_array(value) -> np.ndarray:
    return np.asarray(value if isinstance(value, np.ndarray | np.generic) else numpy_helper.to_array(value))


def one_input(c, directory) -> tuple[str, np.ndarray] | None:
    """The case as a file: its first floating-point input that the operator does not want fixed, all others known."""
    (one,), inputs = c.model.graph.node, c.data_sets[0][0]
    if any(isinstance(i, list) or i is None for i in inputs):
        return None
    arrays = [as_array(i) for i in inputs]
    fixed = OPERATORS[one.op_type].fixed
    names = [i.name for i in c.model.graph.input]
    free = [k for k, a in enumerate(arrays) if a.dtype.kind == "f" and names[k] in list(one.input)]
    free = [k for k in free if list(one.input).index(names[k]) not in fixed]
    if not free:
        return None
    made = onnx.ModelProto.FromString(c.model.SerializeToString())
    made.graph.initializer.extend(
        numpy_helper.from_array(a, name) for k, (a, name) in enumerate(zip(arrays, names, strict=True)) if k != free[0]
    )
    return save(made, directory), arrays[free[0]].astype(np.float32)


@pytest.mark.slow
def test_the_published_cases_of_every_operator_have_their_published_answers(tmp_path):
    passed, wrong = 0, []
    for c in published():
        made = one_input(c, tmp_path)
        if made is None:
            continue
        answer, name = as_array(c.data_sets[0][1][0]), c.model.graph.output[0].name
        tolerance = 2e-3 if answer.dtype == np.float16 else 1e-4
        try:
            got = ours(*made, name, both=False).astype(np.float64)
            np.testing.assert_allclose(got, answer, rtol=tolerance, atol=tolerance / 10)
            passed += 1
        except (AssertionError, UserError) as error:
            wrong.append(f"{c.name}: {error}")
    assert not wrong
    assert passed > 500
