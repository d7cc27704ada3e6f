"""ONNX Resize and Upsample: every axis by a matrix [out, in] that is computed when the file is read."""

import math

import jax.numpy as jnp
import numpy as np

from robustbench_jax.models.onnx_file import Node
from robustbench_jax.models.onnx_operators import axes_of, known, operator, whole
from robustbench_jax.types import UserError

ROUNDED = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}
MOST = 2**26  # entries of one matrix


@operator("Upsample", fixed=(1,))
def upsample(node: Node, x, scales=None):
    scales = node.get("scales") if scales is None else known(node, scales, "scales").reshape(-1)
    out = [math.floor(n * s) for n, s in zip(x.shape, scales, strict=True)]
    for axis, (size, scale) in enumerate(zip(out, scales, strict=True)):
        x = _along(x, axis, _matrix(node, x.shape[axis], size, scale, "asymmetric", "floor"))
    return x


@operator("Resize", fixed=(1, 2, 3))
def resize(node: Node, x, *given):
    roi, scales, sizes = (None, given[0], None) if node.opset < 11 else (*given, None, None, None)[:3]
    axes = axes_of(node, None, x.ndim) or tuple(range(x.ndim))
    how = node.get("coordinate_transformation_mode", "half_pixel" if node.opset >= 11 else "asymmetric")
    if how == "tf_crop_and_resize" or node.get("antialias", 0):
        raise UserError(f"{node}: {'antialias' if node.get('antialias', 0) else how} is not supported")
    nearest = node.get("nearest_mode", "round_prefer_floor" if node.opset >= 11 else "floor")
    if sizes is not None and sizes.size:
        sizes, scales = _sizes(node, [x.shape[a] for a in axes], whole(node, sizes, "sizes"))
    else:
        scales = known(node, scales, "scales").astype(np.float32).reshape(-1)
        sizes = [math.floor(x.shape[a] * s) for a, s in zip(axes, scales, strict=True)]
    for axis, size, scale in zip(axes, sizes, scales, strict=True):
        x = _along(x, axis, _matrix(node, x.shape[axis], size, float(scale), how, nearest))
    return x


def _sizes(node: Node, old: list[int], new: tuple[int, ...]) -> tuple[list[int], list[float]]:
    policy = node.get("keep_aspect_ratio_policy", "stretch")
    scales = [b / a for a, b in zip(old, new, strict=True)]
    if policy == "stretch":
        return list(new), scales
    scale = min(scales) if policy == "not_larger" else max(scales)
    return [math.floor(scale * n + 0.5) for n in old], [scale] * len(old)


def _along(x, axis: int, matrix: np.ndarray | None):
    """Multiplies one axis; where every row has a single 1, picks instead."""
    if matrix is None:
        return x
    if (np.count_nonzero(matrix, 1) == 1).all() and (matrix.max(1) == 1).all():
        return jnp.take(x, matrix.argmax(1), axis)
    return jnp.moveaxis(jnp.tensordot(x, matrix, (axis, 1)), -1, axis)


def _matrix(node: Node, old: int, new: int, scale: float, how: str, nearest: str) -> np.ndarray | None:
    """The weights of `old` pixels in each of `new`; None where nothing changes."""
    if new == old and scale == 1:
        return None
    if new < 1 or new * old > MOST:
        raise UserError(f"{node}: cannot resize {old} pixels to {new}")
    at = _coordinates(node, old, new, scale, how)
    mode = node.get("mode", "nearest")
    if mode == "nearest":
        if nearest not in ROUNDED:
            raise UserError(f"{node}: nearest_mode '{nearest}' is not known")
        taps, weights = ROUNDED[nearest](at)[:, None], np.ones((new, 1))
    elif mode in ("linear", "bilinear"):
        low = np.floor(at)[:, None]
        taps = low + [0, 1]
        weights = np.concatenate([1 - (at[:, None] - low), at[:, None] - low], 1)
    elif mode == "cubic":
        taps = np.floor(at)[:, None] + [-1, 0, 1, 2]
        weights = _cubic(np.abs(at[:, None] - taps), node.get("cubic_coeff_a", -0.75))
    else:
        raise UserError(f"{node}: mode '{mode}' is not known")
    if node.get("exclude_outside", 0):
        weights = np.where((taps < 0) | (taps >= old), 0, weights)
        weights /= weights.sum(1, keepdims=True)
    matrix = np.zeros((new, old), np.float32)
    np.add.at(matrix, (np.arange(new)[:, None], np.clip(taps, 0, old - 1).astype(int)), weights)
    return matrix


def _coordinates(node: Node, old: int, new: int, scale: float, how: str) -> np.ndarray:
    """Where in the old axis the centre of each new pixel lies; in float32, in which runtimes break their ties."""
    index, scale = np.arange(new, dtype=np.float32), np.float32(scale)
    if how == "align_corners":
        return index * np.float32(old - 1) / np.float32(new - 1) if new > 1 else np.zeros(1)
    if how == "asymmetric":
        return index / scale
    if how == "half_pixel_symmetric":
        middle = old / 2 * (1 - new / (old * scale))
        return middle + (index + 0.5) / scale - 0.5
    if how in ("half_pixel", "pytorch_half_pixel"):
        return np.zeros(1) if how.startswith("pytorch") and new == 1 else (index + 0.5) / scale - 0.5
    raise UserError(f"{node}: coordinate_transformation_mode '{how}' is not known")


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' kernel, IEEE Transactions on Acoustics, Speech and Signal Processing 29(6), 1981."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * a - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))
