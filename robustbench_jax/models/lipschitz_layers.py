"""Layers whose Lipschitz constant in L2 is at most 1 by how they are made, and what is proved of it in float64.

AOL: Prach & Lampert, ECCV 2022, arXiv:2208.03160. SLL: Araujo et al., ICLR 2023, arXiv:2303.03169. MaxMin: Anil et al.,
ICML 2019, arXiv:1811.05381.
For any matrix W and positive q, W^T W <= T = diag(sum_j |W^T W|_ij q_j / q_i) as quadratic forms (T - W^T W is,
scaled by
q, diagonally dominant). So W T^(-1/2) x (AOL) and x - 2 W T^-1 relu(W^T x + b) (SLL) are 1-Lipschitz. A convolution
padded
by zeros is the convolution of the whole plane between two restrictions, so that the T of the plane serves it too.
T is computed in float32 and made larger by SAFE; `constant()` compares it with T in float64. With T taken a factor of
1 + d too small, AOL has a constant of at most sqrt(1 + d), and SLL of at most sqrt(1 + 4 d (1 + d)).
Shapes: I values or channels in, M of them inside, window k.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from robustbench_jax.ops import layers
from robustbench_jax.types import UserError

SAFE = 1 + 1e-5
TINY = 1e-12  # of a column of W that is zero


class SLLConv(nnx.Module):
    """x - 2 W T^-1 relu(W^T x + b) with a convolution W^T, padded by zeros: [..., H, W, I] to the same."""

    def __init__(self, channels: int, inner: int, window: int, *, rngs: nnx.Rngs):
        if window % 2 == 0:
            raise UserError(f"lipschitz_cnn: window = {window} must be odd")
        scale = math.sqrt(2 / (window * window * channels))
        self.kernel = nnx.Param(scale * jax.random.normal(rngs.params(), (window, window, channels, inner)))
        self.bias = nnx.Param(jnp.zeros(inner))
        self.log_q = nnx.Param(jnp.zeros(inner))
        self.pad = window // 2

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.kernel[...]
        inside = jax.nn.relu(layers.conv(x, kernel, padding=self.pad) + self.bias[...])
        back = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
        return x - 2 * layers.conv(inside / self.scale(), back, padding=self.pad)

    def scale(self) -> jax.Array:
        """T, as deployed [M]."""
        q = jnp.exp(self.log_q[...])
        return SAFE * (_overlaps(self.kernel[...]) @ q / q) + TINY

    def constant(self) -> float:
        """An upper bound of the Lipschitz constant, of these weights as they are deployed."""
        q = np.exp(np.asarray(self.log_q[...], np.float64))
        exact = _overlaps_in_float64(np.asarray(self.kernel[...], np.float64)) @ q / q
        return residual(short_by(exact, self.scale()))


class SLLDense(nnx.Module):
    """x - 2 W T^-1 relu(W^T x + b): [..., I] to the same, through M values."""

    def __init__(self, ins: int, inner: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(math.sqrt(2 / ins) * jax.random.normal(rngs.params(), (ins, inner)))
        self.bias = nnx.Param(jnp.zeros(inner))
        self.log_q = nnx.Param(jnp.zeros(inner))

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.kernel[...]
        return x - 2 * (jax.nn.relu(x @ kernel + self.bias[...]) / self.scale()) @ kernel.T

    def scale(self) -> jax.Array:
        """T, as deployed [M]."""
        return _dense_scale(self.kernel[...], jnp.exp(self.log_q[...]))

    def constant(self) -> float:
        """As SLLConv."""
        kernel, log_q = (np.asarray(v[...], np.float64) for v in (self.kernel, self.log_q))
        return residual(short_by(np.abs(kernel.T @ kernel) @ np.exp(log_q) / np.exp(log_q), self.scale()))


class AOLDense(nnx.Module):
    """W T^(-1/2) x + b: [..., I] to [..., M]."""

    def __init__(self, ins: int, outs: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(jax.nn.initializers.orthogonal()(rngs.params(), (ins, outs)))
        self.bias = nnx.Param(jnp.zeros(outs))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ (self.kernel[...] / jnp.sqrt(self.scale())) + self.bias[...]

    def scale(self) -> jax.Array:
        """T, as deployed [M]."""
        return _dense_scale(self.kernel[...], jnp.ones(self.kernel.shape[1]))

    def constant(self) -> float:
        """As SLLConv."""
        kernel = np.asarray(self.kernel[...], np.float64)
        return math.sqrt(1 + short_by(np.abs(kernel.T @ kernel).sum(1), self.scale()))


class UnitRows(nnx.Module):
    """The last layer: each class has a row of length 1 (Singla et al., ICLR 2022, arXiv:2108.04062)."""

    def __init__(self, ins: int, classes: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (ins, classes)))
        self.bias = nnx.Param(jnp.zeros(classes))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.rows() + self.bias[...]

    def rows(self) -> jax.Array:
        """[I, C], as deployed."""
        kernel = self.kernel[...]
        return kernel / (jnp.linalg.norm(kernel, axis=0) + TINY)


def max_min(x: jax.Array) -> jax.Array:
    """Halves a, b of the last axis to max(a, b), min(a, b); an odd last value stays."""
    half = x.shape[-1] // 2
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return jnp.concatenate([jnp.maximum(a, b), jnp.minimum(a, b), rest], -1)


def space_to_depth(x: jax.Array) -> jax.Array:
    """[..., H, W, C] to [..., H/2, W/2, 4C], a permutation of the pixels, once odd sides have a line of zeros more."""
    *_, height, width, channels = x.shape
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 3) + [(0, height % 2), (0, width % 2), (0, 0)])
    rows, columns = (height + 1) // 2, (width + 1) // 2
    tiles = jnp.moveaxis(x.reshape(*x.shape[:-3], rows, 2, columns, 2, channels), -4, -3)
    return tiles.reshape(*tiles.shape[:-3], 4 * channels)


def pair_norms(rows: jax.Array) -> jax.Array:
    """[C, C]: ||w_i - w_j|| of rows [I, C], with a gradient of zero on the diagonal."""
    squares = jnp.sum((rows[:, :, None] - rows[:, None, :]) ** 2, 0)
    apart = squares > 0
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, squares, 1.0)), 0.0)


def short_by(exact: np.ndarray, deployed: jax.Array) -> float:
    """By what share T is larger in float64 than as deployed; 0 where it nowhere is."""
    return max(float(np.max(exact * (1 + 1e-12) / np.asarray(deployed, np.float64))) - 1, 0.0)


def residual(short: float) -> float:
    return math.sqrt(1 + 4 * short * (1 + short))


def _dense_scale(kernel: jax.Array, q: jax.Array) -> jax.Array:
    gram = jnp.matmul(kernel.T, kernel, precision=jax.lax.Precision.HIGHEST)
    return SAFE * (jnp.abs(gram) @ q / q) + TINY


def _overlaps(kernel: jax.Array) -> jax.Array:
    """[M, M]: how much two kernels of [k, k, I, M] overlap, in absolute value, added up over all shifts."""
    pad = [(side - 1, side - 1) for side in kernel.shape[:2]]
    found = jax.lax.conv_general_dilated(
        jnp.moveaxis(kernel, -1, 0), kernel, (1, 1), pad, dimension_numbers=layers.LAYOUT, precision="highest"
    )
    return jnp.sum(jnp.abs(found), (1, 2))


def _overlaps_in_float64(kernel: np.ndarray) -> np.ndarray:
    height, width, _, inner = kernel.shape
    total = np.zeros((inner, inner))
    for down in range(1 - height, height):
        for right in range(1 - width, width):
            a = kernel[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)]
            b = kernel[max(-down, 0) : height + min(-down, 0), max(-right, 0) : width + min(-right, 0)]
            total += np.abs(np.einsum("yxim,yxin->mn", a, b))
    return total
