"""Convolution and pooling whose gradients are fast on CPU as well.

On accelerators `conv` is the plain XLA convolution. On CPU three things are slow in XLA (measured; the README's table
gives the effect on a whole attack), and each has another form here:

- few input channels: a convolution of 1 to 4 channels is memory traffic; as a sum of shifted slices it fuses.
- the input gradient of a strided convolution: XLA convolves a dilated array, mostly zeros. Split by the phase of the
  output pixel it is one dense stride-1 convolution, and a reshape.
- vmap over kernels (many models at once): XLA makes a grouped convolution of it. As columns it is one batched
  matrix product.

The choice is made at trace time by the default backend. On CPU `conv` has a reverse-mode derivative of its own, any
number of times; forward mode (jax.jvp) is not defined for it there.
Shapes: leading dims [...], height H, width W, channels in I, channels out O, kernel [h, w, I / groups, O].
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from robustbench_jax.types import UserError

LAYOUT = ("NHWC", "HWIO", "NHWC")
FEW = 4  # input channels up to which shifted slices beat a convolution on CPU

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]


def conv(
    x: jax.Array, kernel: jax.Array, *, stride: int | Pair = 1, padding: str | int | Pads = "SAME", groups: int = 1
) -> jax.Array:
    """Cross-correlates x [..., H, W, I] with kernel [h, w, I / groups, O]; returns [..., H', W', O].

    padding: "SAME" or "VALID" as XLA has them, a number of zeros on every side, or ((top, bottom), (left, right)).
    Raises UserError where channels do not fit.
    """
    if x.shape[-1] != kernel.shape[2] * groups:
        raise UserError(
            f"conv: {x.shape[-1]} channels in, the kernel {list(kernel.shape)} takes {kernel.shape[2] * groups}"
        )
    strides = (stride, stride) if isinstance(stride, int) else stride
    pads = _pads(padding, x.shape[-3:-1], kernel.shape[:2], strides)
    images = x.reshape((-1, *x.shape[-3:]))
    apply = _conv if jax.default_backend() == "cpu" and groups == 1 else partial(_plain, groups=groups)
    out = apply(images, kernel, strides, pads)
    return out.reshape(x.shape[:-3] + out.shape[1:])


def max_pool(x: jax.Array, window: int, stride: int | None = None, padding: str | int | Pads = "VALID") -> jax.Array:
    """Maximum over windows of x [..., H, W, C]; where windows do not overlap, by a reshape, whose gradient is cheap."""
    stride = stride or window
    pads = _pads(padding, x.shape[-3:-1], (window, window), (stride, stride))
    if stride == window and pads == ((0, 0), (0, 0)):
        return jnp.max(_tiles(x, window), axis=(-4, -2))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, *_windows(x, window, stride, pads))


def avg_pool(x: jax.Array, window: int, stride: int | None = None, padding: str | int | Pads = "VALID") -> jax.Array:
    """Mean over windows of x [..., H, W, C]; padded zeros count."""
    stride = stride or window
    pads = _pads(padding, x.shape[-3:-1], (window, window), (stride, stride))
    if stride == window and pads == ((0, 0), (0, 0)):
        return jnp.mean(_tiles(x, window), axis=(-4, -2))
    total = jax.lax.reduce_window(x, 0.0, jax.lax.add, *_windows(x, window, stride, pads))
    return total / window**2


def _tiles(x: jax.Array, window: int) -> jax.Array:
    """[..., H / window, window, W / window, window, C]; rows and columns that fill no window are left out."""
    high, wide = x.shape[-3] // window, x.shape[-2] // window
    whole = x[..., : high * window, : wide * window, :]
    return whole.reshape(*x.shape[:-3], high, window, wide, window, x.shape[-1])


def _windows(x: jax.Array, window: int, stride: int, pads: Pads) -> tuple:
    outer = x.ndim - 3
    return ((1,) * outer + (window, window, 1), (1,) * outer + (stride, stride, 1), ((0, 0),) * outer + (*pads, (0, 0)))


def _pads(padding: str | int | Pads, size: Pair, window: Pair, strides: Pair) -> Pads:
    if isinstance(padding, str):
        return tuple(jax.lax.padtype_to_pads(size, window, strides, padding))
    return ((padding, padding),) * 2 if isinstance(padding, int) else padding


def _plain(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads, groups: int = 1) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=LAYOUT, feature_group_count=groups)


def _shifted(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    """The convolution as a sum over kernel positions of a shifted slice times a small matrix."""
    return sum(slice_ @ tap for slice_, tap in zip(_slices(x, kernel, strides, pads), _taps(kernel), strict=True))


def _columns(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> jax.Array:
    """The convolution as one matrix product of columns [N, H', W', h w I] with the kernel."""
    columns = jnp.concatenate(_slices(x, kernel, strides, pads), axis=-1)
    return columns @ kernel.reshape(-1, kernel.shape[-1])


def _taps(kernel: jax.Array) -> jax.Array:
    return kernel.reshape(-1, *kernel.shape[2:])


def _slices(x: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads) -> list[jax.Array]:
    """What each kernel position sees: [N, H', W', I], h w times."""
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    down, right = ((size - k) // s * s + 1 for size, k, s in zip(x.shape[1:3], kernel.shape, strides, strict=False))
    return [
        x[:, i : i + down : strides[0], j : j + right : strides[1]]
        for i in range(kernel.shape[0])
        for j in range(kernel.shape[1])
    ]


def _phases(g: jax.Array, kernel: jax.Array, strides: Pair, pads: Pads, size: Pair) -> jax.Array:
    """The input gradient [N, *size, I] of a strided convolution from g [N, H', W', O].

    Pixel s * q + r of the padded input meets kernel rows s * a + r only, for whole a: for each phase r a stride-1
    convolution of g, all phases at once as channels, which a reshape then puts between one another.
    """
    (high, wide), (down, right) = kernel.shape[:2], strides
    tall, broad = -(-high // down), -(-wide // right)
    whole = jnp.pad(kernel, ((0, tall * down - high), (0, broad * right - wide), (0, 0), (0, 0)))
    split = whole.reshape(tall, down, broad, right, *kernel.shape[2:])
    mixed = jnp.flip(split, (0, 2)).transpose(0, 2, 5, 1, 3, 4).reshape(tall, broad, kernel.shape[3], -1)
    phases = _plain(g, mixed, (1, 1), ((tall - 1, tall - 1), (broad - 1, broad - 1)))
    rows, columns = phases.shape[1:3]
    image = phases.reshape(-1, rows, columns, down, right, kernel.shape[2]).transpose(0, 1, 3, 2, 4, 5)
    image = image.reshape(-1, rows * down, columns * right, kernel.shape[2])
    short = [max(0, n + pad[0] - have) for n, pad, have in zip(size, pads, image.shape[1:3], strict=True)]
    image = jnp.pad(image, ((0, 0), (0, short[0]), (0, short[1]), (0, 0)))
    return image[:, pads[0][0] : pads[0][0] + size[0], pads[1][0] : pads[1][0] + size[1]]


# A convolution C(x, k), its input gradient I(g, k) and its kernel gradient K(x, g) are linear in each argument, and the
# derivative of any of them is made of the other two: so each has a derivative of every order.


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x, kernel, strides, pads):
    """C: images [N, H, W, I] and kernel [h, w, I, O] -> [N, H', W', O]."""
    form = _shifted if kernel.shape[2] <= FEW else _plain
    return _vmapped(partial(form, strides=strides, pads=pads), partial(_columns, strides=strides, pads=pads))(x, kernel)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _input_gradient(g, kernel, strides, pads, size):
    """I: g [N, H', W', O] and kernel -> [N, *size, I]."""

    def transposed(form):
        def apply(g, kernel):
            x = jax.ShapeDtypeStruct((len(g), *size, kernel.shape[2]), g.dtype)
            return jax.linear_transpose(lambda x: form(x, kernel, strides, pads), x)(g)[0]

        return apply

    if kernel.shape[2] <= FEW:
        form = transposed(_shifted)
    else:
        form = transposed(_plain) if strides == (1, 1) else partial(_phases, strides=strides, pads=pads, size=size)
    return _vmapped(form, transposed(_columns))(g, kernel)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _kernel_gradient(x, g, strides, pads, window):
    """K: images and g -> [h, w, I, O]."""

    def transposed(form):
        def apply(x, g):
            kernel = jax.ShapeDtypeStruct((*window, x.shape[-1], g.shape[-1]), g.dtype)
            return jax.linear_transpose(lambda kernel: form(x, kernel, strides, pads), kernel)(g)[0]

        return apply

    @jax.custom_batching.custom_vmap
    def apply(x, g):
        return transposed(_columns if x.shape[-1] <= FEW else _plain)(x, g)

    @apply.def_vmap
    def rule(count, batched, x, g):
        return jax.vmap(transposed(_columns), [0 if b else None for b in batched])(x, g), True

    return apply(x, g)


_conv.defvjp(
    lambda x, kernel, strides, pads: (_conv(x, kernel, strides, pads), (x, kernel)),
    lambda strides, pads, saved, g: (
        _input_gradient(g, saved[1], strides, pads, saved[0].shape[1:3]),
        _kernel_gradient(saved[0], g, strides, pads, saved[1].shape[:2]),
    ),
)
_input_gradient.defvjp(
    lambda g, kernel, strides, pads, size: (_input_gradient(g, kernel, strides, pads, size), (g, kernel)),
    lambda strides, pads, size, saved, x: (
        _conv(x, saved[1], strides, pads),
        _kernel_gradient(x, saved[0], strides, pads, saved[1].shape[:2]),
    ),
)
_kernel_gradient.defvjp(
    lambda x, g, strides, pads, window: (_kernel_gradient(x, g, strides, pads, window), (x, g)),
    lambda strides, pads, window, saved, kernel: (
        _input_gradient(saved[1], kernel, strides, pads, saved[0].shape[1:3]),
        _conv(saved[0], kernel, strides, pads),
    ),
)


def _vmapped(form: Callable, by_columns: Callable) -> Callable:
    """`form(images [N, ...], kernel)`; a vmap over images alone widens N, one over kernels goes by columns."""

    @jax.custom_batching.custom_vmap
    def apply(images, kernel):
        return form(images, kernel)

    @apply.def_vmap
    def rule(count, batched, images, kernel):
        if batched[1]:
            return jax.vmap(by_columns, [0 if b else None for b in batched])(images, kernel), True
        out = apply(images.reshape(-1, *images.shape[2:]), kernel)
        return out.reshape(count, -1, *out.shape[1:]), True

    return apply
