"""ONNX operators that add up: matrix products, reductions, normalisations over vectors, softmax."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.models.onnx_file import Node
from robustbench_jax.models.onnx_operators import array_module, axes_of, axis_of, operator
from robustbench_jax.types import UserError

REDUCTIONS = {
    "ReduceL1": lambda xp, x, **o: xp.sum(xp.abs(x), **o),
    "ReduceL2": lambda xp, x, **o: xp.sqrt(xp.sum(x * x, **o)),
    "ReduceLogSum": lambda xp, x, **o: xp.log(xp.sum(x, **o)),
    "ReduceLogSumExp": lambda xp, x, **o: jax.nn.logsumexp(x, **o),
    "ReduceMax": lambda xp, x, **o: xp.max(x, **o),
    "ReduceMean": lambda xp, x, **o: xp.mean(x, **o),
    "ReduceMin": lambda xp, x, **o: xp.min(x, **o),
    "ReduceProd": lambda xp, x, **o: xp.prod(x, **o),
    "ReduceSum": lambda xp, x, **o: xp.sum(x, **o),
    "ReduceSumSquare": lambda xp, x, **o: xp.sum(x * x, **o),
}


@operator(*REDUCTIONS, fixed=(1,))
def reduce(node: Node, x, axes=None):
    axes = axes_of(node, axes, x.ndim)
    if not axes and node.get("noop_with_empty_axes", 0):
        axes = ()
    elif not axes:
        axes = tuple(range(x.ndim))
    out = REDUCTIONS[node.op](array_module(x), x, axis=axes, keepdims=bool(node.get("keepdims", 1)))
    return out.astype(x.dtype)


@operator("ArgMax", "ArgMin")
def arg_extreme(node: Node, x):
    xp, axis = array_module(x), axis_of(node, node.get("axis", 0), x.ndim)
    form = xp.argmax if node.op == "ArgMax" else xp.argmin
    if not node.get("select_last_index", 0):
        return form(x, axis=axis, keepdims=bool(node.get("keepdims", 1)))
    return x.shape[axis] - 1 - form(xp.flip(x, axis), axis=axis, keepdims=bool(node.get("keepdims", 1)))


@operator("CumSum", fixed=(1,))
def cumulative_sum(node: Node, x, axis):
    (axis,) = axes_of(node, axis, x.ndim)
    backwards = node.get("reverse", 0)
    x = jnp.flip(x, axis) if backwards else jnp.asarray(x)
    out = jnp.cumsum(x, axis) - (x if node.get("exclusive", 0) else 0)
    return jnp.flip(out, axis) if backwards else out


@operator("Gemm", "com.microsoft.FusedGemm")
def gemm(node: Node, a, b, c=None):
    if node.op != "Gemm":
        raise UserError(f"{node} is made by a runtime's optimiser; give the file before optimisation")
    a = a.T if node.get("transA", 0) else a
    b = b.T if node.get("transB", 0) else b
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    out = a @ b if alpha == 1 else alpha * (a @ b)
    return out if c is None else out + (c if beta == 1 else beta * c)


@operator("MatMul")
def matmul(node: Node, a, b):
    return array_module(a, b).matmul(a, b)


@operator("Einsum")
def einsum(node: Node, *values):
    return jnp.einsum(node.get("equation"), *values)


@operator("Softmax", "LogSoftmax", "Hardmax")
def softmax(node: Node, x):
    """Before operator set 13 over all dimensions from the axis on, as one."""
    form = {"Softmax": jax.nn.softmax, "LogSoftmax": jax.nn.log_softmax, "Hardmax": _hardmax}[node.op]
    axis = axis_of(node, node.get("axis", -1 if node.opset >= 13 else 1), x.ndim)
    if node.opset >= 13:
        return form(x, axis=axis)
    return form(x.reshape(*x.shape[:axis], math.prod(x.shape[axis:])), axis=-1).reshape(x.shape)


def _hardmax(x, axis: int):
    return jax.nn.one_hot(jnp.argmax(x, axis), x.shape[axis], axis=axis, dtype=np.float32)


@operator("LayerNormalization")
def layer_norm(node: Node, x, scale, bias=None):
    """Returns also the mean and one over the deviation."""
    axis = axis_of(node, node.get("axis", -1), x.ndim)
    axes = tuple(range(axis, x.ndim))
    mean = jnp.mean(x, axes, keepdims=True)
    centred = x - mean
    inverse = jax.lax.rsqrt(jnp.mean(centred * centred, axes, keepdims=True) + node.get("epsilon", 1e-5))
    out = centred * inverse * scale
    return out if bias is None else out + bias, mean, inverse


@operator("RMSNormalization", "SimplifiedLayerNormalization")
def rms_norm(node: Node, x, scale):
    axes = tuple(range(axis_of(node, node.get("axis", -1), x.ndim), x.ndim))
    return x * jax.lax.rsqrt(jnp.mean(x * x, axes, keepdims=True) + node.get("epsilon", 1e-5)) * scale


@operator("LpNormalization")
def lp_normalisation(node: Node, x):
    """Zero vectors stay zero."""
    order, axis = node.get("p", 2), axis_of(node, node.get("axis", -1), x.ndim)
    size = jnp.sum(jnp.abs(x) if order == 1 else x * x, axis, keepdims=True)
    nonzero = size > 0
    size = jnp.where(nonzero, size, 1)
    return x / (size if order == 1 else jnp.sqrt(size))


@operator("MeanVarianceNormalization")
def mean_variance_normalisation(node: Node, x):
    axes = tuple(node.get("axes", (0, 2, 3)))
    centred = x - jnp.mean(x, axes, keepdims=True)
    return centred / (jnp.sqrt(jnp.mean(centred * centred, axes, keepdims=True)) + 1e-9)


@operator("GroupNormalization")
def group_norm(node: Node, x, scale, bias):
    """Scale and bias by group before operator set 21, by channel from then on."""
    groups, spatial = node.get("num_groups"), x.shape[2:]
    apart = x.reshape(x.shape[0], groups, -1)
    centred = apart - jnp.mean(apart, -1, keepdims=True)
    out = centred * jax.lax.rsqrt(jnp.mean(centred * centred, -1, keepdims=True) + node.get("epsilon", 1e-5))
    if scale.shape[0] == groups and node.opset < 21:
        return (out * scale[:, None] + bias[:, None]).reshape(x.shape)
    ones = (1,) * len(spatial)
    return out.reshape(x.shape) * scale.reshape(-1, *ones) + bias.reshape(-1, *ones)
