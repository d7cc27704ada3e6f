"""ONNX operators on images: convolutions, pooling, normalisation by channel. Channels last, [N, ..., C], any rank."""

import math
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.models.onnx_file import Node
from robustbench_jax.models.onnx_operators import operator
from robustbench_jax.ops import layers
from robustbench_jax.types import UserError

Pads = tuple[tuple[int, int], ...]
MOST_TAPS = 25  # entries of a kernel up to which a depthwise convolution is a sum
FEW_GROUPS = 8  # groups up to which there is one convolution for each
TURNED = "kernel channels last"  # the attribute of a Conv whose kernel is [..., I, O] already


@operator("Conv", images=True)
def conv(node: Node, x, kernel, bias=None):
    """ops.layers.conv where it has the form, XLA's convolution where windows are dilated or images are not 2-D.

    On CPU a grouped convolution is slow, in compiled loops above all: for 32 images 16x16x64, 3x3, one group a channel
    takes 30 ms and the sum over taps 0.5 ms; three gradient steps with 4 groups 446 ms, with 4 convolutions 88 ms.
    """
    kernel = kernel if node.get(TURNED) else turned(kernel)
    rank, groups = x.ndim - 2, node.get("group", 1)
    strides, dilations = node.get("strides", (1,) * rank), node.get("dilations", (1,) * rank)
    if kernel.ndim != rank + 2 or x.shape[-1] != kernel.shape[-2] * groups:
        raise UserError(f"{node}: a kernel {list(kernel.shape)} in {groups} groups does not fit {x.shape[-1]} channels")
    pads = padding(node, x.shape[1:-1], kernel.shape[:rank], strides, dilations)
    if groups == kernel.shape[-1] > 1 and kernel.shape[-2] == 1 and math.prod(kernel.shape[:rank]) <= MOST_TAPS:
        out = _by_channel(x, kernel, strides, pads, dilations)
    elif rank == 2 and set(dilations) == {1}:
        split = groups if groups <= FEW_GROUPS else 1
        parts = zip(jnp.split(x, split, -1), jnp.split(kernel, split, -1), strict=True)
        options = {"stride": tuple(strides), "padding": pads, "groups": groups // split}
        out = jnp.concatenate([layers.conv(a, b, **options) for a, b in parts], -1)
    else:
        out = jax.lax.conv_general_dilated(
            x, kernel, strides, pads, None, dilations, _letters(rank), feature_group_count=groups
        )
    return out if bias is None else out + bias


def _by_channel(x, kernel, strides, pads, dilations):
    """Each channel with its own window: a sum over the kernel's entries of a slice of the image times a vector."""
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    return sum(seen * kernel[tap][0] for tap, seen in _taps(x, kernel.shape[:-2], strides, dilations))


@operator("ConvTranspose", images=True)
def conv_transpose(node: Node, x, kernel, bias=None):
    """A convolution of the images, zeros between their pixels, with the flipped kernel [I, O / groups, ...]."""
    rank, groups = x.ndim - 2, node.get("group", 1)
    window = kernel.shape[2:]
    strides, dilations = node.get("strides", (1,) * rank), node.get("dilations", (1,) * rank)
    pads, more = _transposed_pads(node, x.shape[1:-1], window, strides, dilations)
    kernel = jnp.flip(jnp.asarray(kernel), range(2, rank + 2))
    kernel = kernel.reshape(groups, -1, *kernel.shape[1:]).swapaxes(0, 1)
    kernel = jnp.moveaxis(kernel.reshape(kernel.shape[0], -1, *window), (0, 1), (-2, -1))
    reach = [(k - 1) * d for k, d in zip(window, dilations, strict=True)]
    around = [(r - a, r - b + m) for r, (a, b), m in zip(reach, pads, more, strict=True)]
    ones = (1,) * rank
    out = jax.lax.conv_general_dilated(
        x, kernel, ones, around, strides, dilations, _letters(rank), feature_group_count=groups
    )
    return out if bias is None else out + bias


def _transposed_pads(node: Node, size, window, strides, dilations) -> tuple[Pads, tuple[int, ...]]:
    """The pads that are cut off, and how much the output is longer than they leave it."""
    rank = len(size)
    more, wanted = node.get("output_padding", (0,) * rank), node.get("output_shape")
    auto = node.get("auto_pad", "NOTSET")
    if wanted is None and not auto.startswith("SAME"):
        pads = node.get("pads", (0,) * 2 * rank) if auto == "NOTSET" else (0,) * 2 * rank
        return tuple(zip(pads[:rank], pads[rank:], strict=True)), more
    wanted = wanted[-rank:] if wanted else [n * s for n, s in zip(size, strides, strict=True)]
    pads = []
    for n, k, s, d, m, w in zip(size, window, strides, dilations, more, wanted, strict=True):
        total = s * (n - 1) + m + (k - 1) * d + 1 - w
        half = total // 2
        pads.append((half, total - half) if auto == "SAME_UPPER" else (total - half, half))
    return tuple(pads), more


def turned(kernel):
    """[O, I, ...] -> [..., I, O]."""
    return np.moveaxis(kernel, (0, 1), (-1, -2)) if isinstance(kernel, np.ndarray) else _turned(kernel)


def _turned(kernel: jax.Array) -> jax.Array:
    return jnp.moveaxis(kernel, (0, 1), (-1, -2))


def _letters(rank: int) -> tuple[str, str, str]:
    spatial = "DHW"[-rank:] if rank <= 3 else "ABCDEFGH"[:rank]
    return f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"


def padding(node: Node, size, window, strides, dilations) -> Pads:
    """What comes before and after each dimension, by `pads` or `auto_pad`."""
    auto, rank = node.get("auto_pad", "NOTSET"), len(size)
    if auto == "VALID":
        return ((0, 0),) * rank
    if auto in ("NOTSET", ""):
        pads = node.get("pads", (0,) * 2 * rank)
        if len(pads) != 2 * rank or len(strides) != rank or len(dilations) != rank or min(strides) < 1:
            raise UserError(f"{node}: pads {list(pads)} and strides {list(strides)} do not fit {rank} dimensions")
        return tuple(zip(pads[:rank], pads[rank:], strict=True))
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        raise UserError(f"{node}: auto_pad '{auto}' is not known")
    pads = []
    for n, k, s, d in zip(size, window, strides, dilations, strict=True):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        pads.append((total // 2, total - total // 2) if auto == "SAME_UPPER" else (total - total // 2, total // 2))
    return tuple(pads)


@operator("MaxPool", images=True)
def max_pool(node: Node, x):
    window, strides, dilations, pads, over = _windows(node, x)
    if x.ndim == 4 and _square(window, strides, dilations) and not any(map(any, pads)) and not any(over):
        return layers.max_pool(x, window[0])
    pads = tuple((a, b + more) for (a, b), more in zip(pads, over, strict=True))
    low = -jnp.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
    if set(dilations) == {1}:
        around = ((1, *window, 1), (1, *strides, 1), ((0, 0), *pads, (0, 0)))
        return jax.lax.reduce_window(x, np.array(low, x.dtype), jax.lax.max, *around)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)), constant_values=low)
    # reduce_window has no gradient for dilated windows
    return reduce(jnp.maximum, (seen for _, seen in _taps(x, window, strides, dilations)))


def _taps(x, window, strides, dilations):
    """What each entry of the window sees of the images [N, ..., C], with its index."""
    around = zip(x.shape[1:-1], window, strides, dilations, strict=True)
    reach = [(n - (k - 1) * d - 1) // s * s + 1 for n, k, s, d in around]
    for tap in np.ndindex(*window):
        cut = (slice(t * d, t * d + r, s) for t, d, r, s in zip(tap, dilations, reach, strides, strict=True))
        yield tap, x[(slice(None), *cut)]


@operator("AveragePool", images=True)
def average_pool(node: Node, x):
    """Padding counts only where count_include_pad says so; what ceil_mode adds at the end never does."""
    window, strides, dilations, pads, over = _windows(node, x)
    if x.ndim == 4 and _square(window, strides, dilations) and not any(map(any, pads)) and not any(over):
        return layers.avg_pool(x, window[0])
    counts = np.ones(())
    for n, k, s, d, (a, b), more in zip(x.shape[1:], window, strides, dilations, pads, over, strict=False):
        counted = np.full(a + n + b, bool(node.get("count_include_pad", 0)))
        counted[a : a + n] = True
        counted = np.append(counted, np.zeros(more, bool))
        starts = np.arange(0, len(counted) - (k - 1) * d, s)
        counts = counts[..., None] * counted[starts[:, None] + np.arange(k) * d].sum(1)
    around = tuple((a, b + more) for (a, b), more in zip(pads, over, strict=True))
    return _sums(x, window, strides, dilations, around) / np.maximum(counts, 1)[..., None].astype(np.float32)


@operator("LpPool", images=True)
def lp_pool(node: Node, x):
    window, strides, dilations, pads, over = _windows(node, x)
    around, order = tuple((a, b + more) for (a, b), more in zip(pads, over, strict=True)), node.get("p", 2)
    return _sums(jnp.abs(x) ** order, window, strides, dilations, around) ** (1 / order)


def _sums(x, window, strides, dilations, pads: Pads):
    around = ((1, *window, 1), (1, *strides, 1), ((0, 0), *pads, (0, 0)))
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, *around, window_dilation=(1, *dilations, 1))


def _windows(node: Node, x) -> tuple:
    """Window, strides, dilations, pads, and what ceil_mode adds to each dimension's end."""
    window = node.get("kernel_shape")
    rank = x.ndim - 2
    if window is None or len(window) != rank or min(window) < 1:
        raise UserError(f"{node}: a window {list(window or ())} does not fit {rank} dimensions")
    strides, dilations = node.get("strides", (1,) * rank), node.get("dilations", (1,) * rank)
    pads = padding(node, x.shape[1:-1], window, strides, dilations)
    over = [0] * rank
    if node.get("ceil_mode", 0) and node.get("auto_pad", "NOTSET") in ("NOTSET", "VALID"):
        sizes = zip(x.shape[1:-1], window, strides, dilations, pads, strict=True)
        over = [_ceiling(*its) for its in sizes]
    return window, strides, dilations, pads, tuple(over)


def _ceiling(n: int, k: int, s: int, d: int, pads: tuple[int, int]) -> int:
    """Entries beyond the padding that the last window sees; it must start inside of the image or before it."""
    reach, whole = (k - 1) * d + 1, n + sum(pads)
    count = -(-(whole - reach) // s) + 1
    count -= (count - 1) * s >= n + pads[0]
    return max((count - 1) * s + reach - whole, 0)


def _square(window, strides, dilations) -> bool:
    return set(dilations) == {1} and len({*window, *strides}) == 1


@operator("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", images=True)
def global_pool(node: Node, x):
    axes = tuple(range(1, x.ndim - 1))
    if node.op == "GlobalLpPool":
        order = node.get("p", 2)
        return jnp.sum(jnp.abs(x) ** order, axes, keepdims=True) ** (1 / order)
    return (jnp.mean if node.op == "GlobalAveragePool" else jnp.max)(x, axes, keepdims=True)


@operator("BatchNormalization", images=True)
def batch_norm(node: Node, x, scale, bias, mean, variance):
    if node.get("training_mode", 0) or not node.get("spatial", 1):
        raise UserError(f"{node} is in training mode; export the model in evaluation mode")
    factor = scale / jnp.sqrt(variance + node.get("epsilon", 1e-5))
    return x * factor + (bias - mean * factor)


@operator("InstanceNormalization", images=True)
def instance_norm(node: Node, x, scale, bias):
    axes = tuple(range(1, x.ndim - 1))
    centred = x - jnp.mean(x, axes, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred**2, axes, keepdims=True) + node.get("epsilon", 1e-5)) * scale + bias


@operator("LRN", images=True)
def local_response_norm(node: Node, x):
    size, alpha, beta = node.get("size"), node.get("alpha", 1e-4), node.get("beta", 0.75)
    before = (size - 1) // 2
    squares = jnp.pad(x * x, ((0, 0),) * (x.ndim - 1) + ((before, size - 1 - before),))
    total = sum(squares[..., i : i + x.shape[-1]] for i in range(size))
    return x / (node.get("bias", 1.0) + alpha / math.prod((size,)) * total) ** beta
