"""ONNX operators that move entries about, and those that compute shapes."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.models.onnx_file import Node
from robustbench_jax.models.onnx_operators import (
    ChannelsLast,
    array_module,
    as_file,
    aware,
    axes_of,
    axis_of,
    known,
    operator,
    require_size,
    whole,
)
from robustbench_jax.types import UserError

TO_LAST = (0, 3, 1, 2)  # where axis i of [N, C, H, W] lies in [N, H, W, C]
MODES = {"constant": "constant", "reflect": "reflect", "edge": "edge", "wrap": "wrap"}


@operator("Constant")
def constant(node: Node):
    for key in ("value", "value_float", "value_int", "value_floats", "value_ints"):
        value = node.get(key)
        if value is not None:
            plain = {float: np.float32, int: np.int64}
            kind = np.float32 if key == "value_floats" else np.int64 if key == "value_ints" else None
            return np.asarray(value, kind or plain.get(type(value)))
    raise UserError(f"{node}: only constants of numbers are supported")


@operator("Shape")
@aware
def shape(node: Node, x):
    return np.array(x.shape[slice(node.get("start", 0), node.get("end"))], np.int64)


@operator("Size")
@aware
def size(node: Node, x):
    return np.array(math.prod(x.shape), np.int64)


@operator("ConstantOfShape", fixed=(0,))
def constant_of_shape(node: Node, sizes):
    value = node.get("value", np.zeros(1, np.float32))
    sizes = whole(node, sizes, "shape")
    require_size(node, math.prod(sizes))
    return np.full(sizes, value.reshape(()))


@operator("Range", fixed=(0, 1, 2))
def range_(node: Node, start, stop, step):
    start, stop, step = (known(node, v, "range").reshape(()) for v in (start, stop, step))
    require_size(node, abs((float(stop) - float(start)) / float(step)) if step else math.inf)
    return np.arange(start, stop, step).astype(start.dtype)


@operator("EyeLike")
@aware
def eye_like(node: Node, x):
    return np.eye(*x.shape, k=node.get("k", 0), dtype=np.float32)


@operator("Reshape", fixed=(1,))
def reshape(node: Node, x, sizes):
    sizes = whole(node, sizes, "shape")
    if not node.get("allowzero", 0):
        sizes = tuple(x.shape[i] if s == 0 and i < x.ndim else s for i, s in enumerate(sizes))
    return x.reshape(sizes)


@operator("Flatten")
def flatten(node: Node, x):
    axis = node.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("Transpose")
def transpose(node: Node, x):
    return x.transpose(node.get("perm", tuple(range(x.ndim))[::-1]))


@operator("Squeeze", fixed=(1,))
def squeeze(node: Node, x, axes=None):
    return x.squeeze(axes_of(node, axes, x.ndim))


@operator("Unsqueeze", fixed=(1,))
def unsqueeze(node: Node, x, axes=None):
    given = node.get("axes") if axes is None else whole(node, axes, "axes")
    xp = array_module(x)
    return xp.expand_dims(x, tuple(axis_of(node, a, x.ndim + len(given)) for a in given))


@operator("Concat")
@aware
def concat(node: Node, *parts):
    parts = [p for p in parts if math.prod(p.shape) or len(parts) == 1] or list(parts[:1])
    axis = axis_of(node, node.get("axis", 1), len(parts[0].shape))
    if all(isinstance(p, ChannelsLast) for p in parts):
        return ChannelsLast(jnp.concatenate([p.array for p in parts], TO_LAST[axis]))
    parts = [as_file(p) for p in parts]
    return array_module(*parts).concatenate(parts, axis)


@operator("Split", fixed=(1,))
@aware
def split(node: Node, x, sizes=None):
    axis, count = axis_of(node, node.get("axis", 0), len(x.shape)), len(node.outputs)
    sizes = node.get("split") if sizes is None else whole(node, sizes, "sizes")
    if sizes is None:
        each = -(-x.shape[axis] // node.get("num_outputs", count))
        sizes = [min(each, x.shape[axis] - i * each) for i in range(count)]
    at = np.cumsum(sizes)[:-1]
    if sum(sizes) != x.shape[axis]:
        raise UserError(f"{node}: {x.shape[axis]} entries do not split into {list(sizes)}")
    if isinstance(x, ChannelsLast):
        return tuple(ChannelsLast(p) for p in jnp.split(x.array, at, TO_LAST[axis]))
    return tuple(array_module(x).split(x, at, axis))


@operator("Slice", fixed=(1, 2, 3, 4))
@aware
def slice_(node: Node, x, starts=None, ends=None, axes=None, steps=None):
    starts = node.get("starts") if starts is None else whole(node, starts, "starts")
    ends = node.get("ends") if ends is None else whole(node, ends, "ends")
    steps = (1,) * len(starts) if steps is None else whole(node, steps, "steps")
    axes = axes_of(node, axes, len(x.shape)) or tuple(range(len(starts)))
    cut = [slice(None)] * len(x.shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        cut[axis] = _slice(start, end, step, x.shape[axis])
    if isinstance(x, ChannelsLast):
        return ChannelsLast(x.array[cut[0], cut[2], cut[3], cut[1]])
    return x[tuple(cut)]


def _slice(start: int, end: int, step: int, length: int) -> slice:
    """ONNX's start and end, clipped to what is there; an end before the first entry is None in Python."""
    start, end = (v + length if v < 0 else v for v in (start, end))
    if step > 0:
        return slice(min(max(start, 0), length), min(max(end, 0), length), step)
    return slice(min(max(start, 0), length - 1), None if end < 0 else min(end, length - 1), step)


@operator("Pad", fixed=(1, 3))
@aware
def pad(node: Node, x, pads=None, value=None, axes=None):
    """Negative pads crop. The padding of an image with zeros stays channels last."""
    rank, mode = len(x.shape), node.get("mode", "constant")
    pads = node.get("pads") if pads is None else whole(node, pads, "pads")
    axes = axes_of(node, axes, rank) or tuple(range(rank))
    value = node.get("value", 0.0) if value is None else value
    if mode not in MODES or len(pads) != 2 * len(axes):
        raise UserError(f"{node}: pads {list(pads)} in mode '{mode}' are not supported")
    around = [(0, 0)] * rank
    for i, axis in enumerate(axes):
        around[axis] = pads[i], pads[i + len(axes)]
    if not isinstance(x, ChannelsLast):
        return _padded(x, around, mode, value)
    return ChannelsLast(_padded(x.array, [around[0], *around[2:], around[1]], mode, value))


def _padded(x, around: list, mode: str, value):
    xp, dtype = array_module(x, value if isinstance(value, np.ndarray | jax.Array) else None), x.dtype
    kept = tuple(slice(max(-a, 0), n - max(-b, 0)) for (a, b), n in zip(around, x.shape, strict=True))
    more = [(max(a, 0), max(b, 0)) for a, b in around]
    fill = {"constant_values": xp.asarray(value).reshape(()).astype(dtype)} if mode == "constant" else {}
    return xp.pad(x[kept], more, mode, **fill)


@operator("Expand", fixed=(1,))
def expand(node: Node, x, sizes):
    return array_module(x).broadcast_to(x, np.broadcast_shapes(x.shape, whole(node, sizes, "shape")))


@operator("Tile", fixed=(1,))
def tile(node: Node, x, repeats):
    return array_module(x).tile(x, whole(node, repeats, "repeats"))


@operator("Gather")
def gather(node: Node, x, indices):
    xp, axis = array_module(x, indices), axis_of(node, node.get("axis", 0), x.ndim)
    return xp.take(x, _inside(node, indices, x.shape[axis]), axis)


@operator("GatherElements")
def gather_elements(node: Node, x, indices):
    axis = axis_of(node, node.get("axis", 0), x.ndim)
    return array_module(x, indices).take_along_axis(x, _inside(node, indices, x.shape[axis]), axis)


@operator("GatherND")
def gather_nd(node: Node, x, indices):
    batch, depth = node.get("batch_dims", 0), indices.shape[-1]

    def one(x, indices):
        return x[tuple(jnp.moveaxis(indices, -1, 0)[:depth])]

    for _ in range(batch):
        one = jax.vmap(one)
    return one(jnp.asarray(x), jnp.asarray(indices))


@operator("ScatterND")
def scatter_nd(node: Node, x, indices, updates):
    """In NumPy where all is known: the masks of shifted windows are made so, in many small steps."""
    how = node.get("reduction", "none")
    if array_module(x, indices, updates) is np:
        return _scattered(x.copy(), tuple(np.moveaxis(indices, -1, 0)), updates, how)
    where = jnp.asarray(x).at[tuple(jnp.moveaxis(jnp.asarray(indices), -1, 0))]
    forms = {"none": where.set, "add": where.add, "mul": where.multiply, "max": where.max, "min": where.min}
    return forms[how](updates)


def _scattered(x: np.ndarray, at: tuple, updates: np.ndarray, how: str) -> np.ndarray:
    if how == "none":
        x[at] = updates
    else:
        {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}[how].at(x, at, updates)
    return x


def _inside(node: Node, indices, length: int):
    """Indices from 0 on. Known ones are checked; what the image computes is clipped, as there is nobody to tell."""
    if isinstance(indices, np.ndarray):
        if indices.size and not (-length <= indices.min() and indices.max() < length):
            raise UserError(f"{node}: an index is outside of {length} entries")
        return np.where(indices < 0, indices + length, indices)
    return jnp.clip(jnp.where(indices < 0, indices + length, indices), 0, length - 1)


@operator("DepthToSpace")
def depth_to_space(node: Node, x):
    block, (n, c, h, w) = node.get("blocksize"), x.shape
    if node.get("mode", "DCR") == "DCR":
        split_up = x.reshape(n, block, block, c // block**2, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        split_up = x.reshape(n, c // block**2, block, block, h, w).transpose(0, 1, 4, 2, 5, 3)
    return split_up.reshape(n, c // block**2, h * block, w * block)


@operator("SpaceToDepth")
def space_to_depth(node: Node, x):
    block, (n, c, h, w) = node.get("blocksize"), x.shape
    order = (0, 3, 5, 1, 2, 4) if node.get("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    tiles = x.reshape(n, c, h // block, block, w // block, block).transpose(order)
    return tiles.reshape(n, c * block**2, h // block, w // block)


@operator("Trilu", fixed=(1,))
def trilu(node: Node, x, k=None):
    xp = array_module(x)
    form = xp.triu if node.get("upper", 1) else xp.tril
    return form(x, 0 if k is None else int(known(node, k, "diagonal").reshape(())))


@operator("OneHot", fixed=(1,))
def one_hot(node: Node, indices, depth, values):
    depth = int(known(node, depth, "depth").reshape(()))
    require_size(node, depth * indices.size)
    indices = jnp.asarray(indices)
    indices = jnp.where(indices < 0, indices + depth, indices).astype(np.int32)
    axis = node.get("axis", -1) % (indices.ndim + 1)
    return jnp.where(jax.nn.one_hot(indices, depth, axis=axis) > 0, values[1], values[0])


@operator("NonZero", fixed=(0,))
def non_zero(node: Node, x):
    return np.stack(np.nonzero(known(node, x, "result's shape"))).astype(np.int64)
