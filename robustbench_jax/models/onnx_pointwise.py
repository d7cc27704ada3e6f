"""ONNX operators that work entry by entry: arithmetic, comparisons, activations."""

from collections.abc import Callable
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.models.onnx_file import Node
from robustbench_jax.models.onnx_operators import array_module, known, operator
from robustbench_jax.types import UserError

FLOATS = (1, 10, 11, 16, 17, 18, 19, 20, 23)  # float, float16, double, bfloat16, float8: float32 here
INTEGERS = {2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 12: "uint32", 13: "uint64"}
HIGHEST = {"uint8": 255, "int8": 127, "uint16": 65535, "int16": 32767}
ERF_1 = 2 / np.sqrt(np.pi)

UNARY = {
    "Abs": jnp.abs,
    "Acos": jnp.arccos,
    "Acosh": jnp.arccosh,
    "Asin": jnp.arcsin,
    "Asinh": jnp.arcsinh,
    "Atan": jnp.arctan,
    "Atanh": jnp.arctanh,
    "Ceil": jnp.ceil,
    "Cos": jnp.cos,
    "Cosh": jnp.cosh,
    "Erf": jax.lax.erf,
    "Exp": jnp.exp,
    "Floor": jnp.floor,
    "HardSwish": lambda x: x * jnp.clip(x / 6 + 0.5, 0, 1),
    "IsNaN": jnp.isnan,
    "Log": jnp.log,
    "Mish": lambda x: x * jnp.tanh(jax.nn.softplus(x)),
    "Neg": jnp.negative,
    "Not": jnp.logical_not,
    "Reciprocal": lambda x: 1 / x,
    "Relu": jax.nn.relu,
    "Round": jnp.round,
    "Sigmoid": jax.nn.sigmoid,
    "Sign": jnp.sign,
    "Sin": jnp.sin,
    "Sinh": jnp.sinh,
    "Softplus": jax.nn.softplus,
    "Softsign": jax.nn.soft_sign,
    "Sqrt": jnp.sqrt,
    "Tan": jnp.tan,
    "Tanh": jnp.tanh,
}
BINARY = {
    "Add": "add",
    "And": "logical_and",
    "Equal": "equal",
    "Greater": "greater",
    "GreaterOrEqual": "greater_equal",
    "Less": "less",
    "LessOrEqual": "less_equal",
    "Mul": "multiply",
    "Or": "logical_or",
    "Sub": "subtract",
    "Xor": "logical_xor",
}
IN_NUMPY = {"Abs": np.abs, "Ceil": np.ceil, "Floor": np.floor, "Neg": np.negative, "Not": np.logical_not}
IN_NUMPY |= {"Sqrt": np.sqrt, "Round": np.round, "Sign": np.sign, "Exp": np.exp, "Log": np.log}


def _unary(name: str) -> Callable:
    def run(node: Node, x):
        return (IN_NUMPY.get(name, UNARY[name]) if array_module(x) is np else UNARY[name])(x)

    return run


def _binary(name: str) -> Callable:
    def run(node: Node, a, b):
        return getattr(array_module(a, b), name)(a, b)

    return run


for _name in UNARY:
    operator(_name, pointwise=True)(_unary(_name))
for _name, _function in BINARY.items():
    operator(_name, pointwise=True)(_binary(_function))


@operator("Div", pointwise=True)
def div(node: Node, a, b):
    """Of integers: towards zero."""
    xp = array_module(a, b)
    if not np.issubdtype(a.dtype, np.integer):
        return xp.divide(a, b)
    return xp.sign(a) * xp.sign(b) * (xp.abs(a) // xp.abs(b)) if np.issubdtype(a.dtype, np.signedinteger) else a // b


@operator("Mod", pointwise=True)
def mod(node: Node, a, b):
    xp = array_module(a, b)
    return xp.fmod(a, b) if node.get("fmod", 0) else xp.mod(a, b)


@operator("Pow", pointwise=True, fixed=(1,))
def power(node: Node, a, b):
    xp = array_module(a, b)
    if np.issubdtype(a.dtype, np.integer):
        return xp.power(a.astype(np.float64 if xp is np else np.float32), b).astype(a.dtype)
    if xp is jnp and isinstance(b, np.ndarray) and b.size == 1:
        return _known_power(a, b)
    return xp.power(a, b).astype(a.dtype)


def _known_power(a, b: np.ndarray):
    """By multiplications where the exponent is whole: the gradient at 0 is then that of the polynomial."""
    exponent = float(b.reshape(()))
    if exponent == int(exponent) and abs(exponent) <= 64:
        out = jax.lax.integer_pow(a, int(exponent))
    else:
        out = jnp.sqrt(a) if exponent == 0.5 else jnp.power(a, exponent)
    return out + jnp.zeros(b.shape, a.dtype) if b.ndim > a.ndim else out


@operator("Max", "Min", "Sum", "Mean", pointwise=True)
def variadic(node: Node, *values):
    xp = array_module(*values)
    join = {"Max": xp.maximum, "Min": xp.minimum}.get(node.op, xp.add)
    out = reduce(join, values)
    return out / len(values) if node.op == "Mean" else out


@operator("Where", pointwise=True)
def where(node: Node, condition, a, b):
    return array_module(condition, a, b).where(condition, a, b)


@operator("IsInf", pointwise=True)
def is_inf(node: Node, x):
    below, above = node.get("detect_negative", 1), node.get("detect_positive", 1)
    return (jnp.isneginf(x) & bool(below)) | (jnp.isposinf(x) & bool(above))


@operator("Identity", "Cast", "CastLike", pointwise=True)
def cast(node: Node, x, like=None):
    """All floating-point types are float32 here, and what jax traces has 32 bits at most."""
    if node.op == "Identity":
        return x
    to = node.get("to", 0) if like is None else None
    if to is not None and to not in (*FLOATS, *INTEGERS, 9):
        raise UserError(f"{node}: cast to type {to} is not supported")
    dtype = like.dtype if to is None else np.dtype("float32" if to in FLOATS else INTEGERS.get(to, "bool"))
    return x.astype(dtype) if array_module(x) is np else jnp.asarray(x).astype(jax.dtypes.canonicalize_dtype(dtype))


@operator("Clip", pointwise=True, fixed=(1, 2))
def clip(node: Node, x, low=None, high=None):
    xp = array_module(x, low, high)
    low = node.get("min") if low is None else low
    high = node.get("max") if high is None else high
    for bound, beyond in ((low, xp.less), (high, xp.greater)):
        if bound is not None:  # the gradient at the bound itself is 1, as in PyTorch
            bound = xp.asarray(bound, x.dtype).reshape(())
            x = xp.where(beyond(x, bound), bound, x)
    return x


@operator("LeakyRelu", pointwise=True)
def leaky_relu(node: Node, x):
    return jnp.where(x >= 0, x, node.get("alpha", 0.01) * x)


@operator("PRelu", pointwise=True)
def prelu(node: Node, x, slope):
    return jnp.where(x >= 0, x, slope * x)


@operator("Elu", pointwise=True)
def elu(node: Node, x):
    return jax.nn.elu(x, node.get("alpha", 1.0))


@operator("Selu", pointwise=True)
def selu(node: Node, x):
    alpha, gamma = node.get("alpha", 1.6732632423543772), node.get("gamma", 1.0507009873554805)
    return gamma * jax.nn.elu(x, alpha)


@operator("Celu", pointwise=True)
def celu(node: Node, x):
    return jax.nn.celu(x, node.get("alpha", 1.0))


@operator("Swish", "com.microsoft.QuickGelu", pointwise=True)
def swish(node: Node, x):
    return x * jax.nn.sigmoid(node.get("alpha", 1.0 if node.op == "Swish" else 1.702) * x)


@operator("ThresholdedRelu", pointwise=True)
def thresholded_relu(node: Node, x):
    return jnp.where(x > node.get("alpha", 1.0), x, 0)


@operator("HardSigmoid", pointwise=True)
def hard_sigmoid(node: Node, x):
    return jnp.clip(node.get("alpha", 0.2) * x + node.get("beta", 0.5), 0, 1)


@operator("Shrink", pointwise=True)
def shrink(node: Node, x):
    lambd, bias = node.get("lambd", 0.5), node.get("bias", 0.0)
    return jnp.where(x < -lambd, x + bias, jnp.where(x > lambd, x - bias, 0)).astype(x.dtype)


@operator("Gelu", "com.microsoft.Gelu", pointwise=True)
def gelu(node: Node, x):
    return jax.nn.gelu(x, approximate=node.get("approximate", "none") == "tanh")


@operator("Dropout", fixed=(1, 2), pointwise=True)
def dropout(node: Node, x, ratio=None, training=None):
    if training is not None and known(node, training, "training mode").any():
        raise UserError(f"{node} is in training mode; export the model in evaluation mode")
    return x


@operator("QuantizeLinear")
def quantize(node: Node, x, scale, zero=None):
    """As the file says: rounded, so that the gradient is zero."""
    zero = np.zeros((), np.uint8) if zero is None else zero
    dtype = np.dtype(zero.dtype)
    if dtype.name not in HIGHEST or node.get("block_size", 0):
        raise UserError(f"{node}: quantisation to {dtype} is not supported; export the model without it")
    high, low = HIGHEST[dtype.name], np.iinfo(dtype).min
    scale, zero = _by_axis(node, x, scale), _by_axis(node, x, zero)
    return jnp.clip(jnp.round(x / scale) + zero.astype(np.float32), low, high).astype(dtype)


@operator("DequantizeLinear")
def dequantize(node: Node, x, scale, zero=None):
    if node.get("block_size", 0):
        raise UserError(f"{node}: quantisation in blocks is not supported; export the model without it")
    zero = np.zeros((), np.float32) if zero is None else zero.astype(np.float32)
    return (x.astype(np.float32) - _by_axis(node, x, zero)) * _by_axis(node, x, scale)


def _by_axis(node: Node, x, value):
    if value.ndim != 1 or value.size == 1:
        return value.reshape(())
    after = x.ndim - 1 - node.get("axis", 1) % x.ndim
    return value.reshape(-1, *(1,) * after)
