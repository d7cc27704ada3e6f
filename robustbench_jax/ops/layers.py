"""Convolution and pooling that are fast on CPU as well: their gradients, inside compiled loops, over many models.

On accelerators `conv` and its gradients are the plain XLA convolution. On CPU these things are slow in XLA, and have
another form here (milliseconds for a batch of 64 on one core of an x86-64 with AVX-512, jax 0.10.2):

- The input gradient of a strided convolution convolves a dilated array, mostly zeros. Where the stride divides the
  kernel, split by the phase of the pixel it is one dense stride-1 convolution and a reshape: 7.7 to 2.5 for 28x28x16 ->
  32, 4x4, stride 2. Elsewhere it is a product for each entry of the kernel, put where it belongs: for a batch of 16,
  8.0 to 2.6 for 8x8x256 -> 512, 3x3, stride 2. So it is where the kernel is larger than the images, which spares the
  kernel's transposition: 6.9 to 4.5 for 4x4x512 -> 512, 3x3.
- 3x3 kernels over many pixels and a middling number of channels are Winograd's (ops/winograd.py), forward and back:
  8.6 to 5.0 for a batch of 16 of 32x32x64 -> 64.
- Inside lax.scan or while_loop XLA leaves gradients in an order of dimensions that its fast kernel does not take
  (jax-ml/jax#12868). With explicit transposes they run in a loop as outside of one: 670 to 11 for the input gradient
  and 5400 to 55 for the kernel gradient of 32x32x32 -> 32, 3x3.
- The kernel gradient is a product over all pixels of the batch, for which XLA packs more than the cache holds. Slices
  that it does hold, added up, take 103 to 32 for 32x32x32 -> 32, 3x3, and 25 to 11 for a batch of 128 of
  28x28x16 -> 32, 4x4, stride 2.
- One to four input channels are memory traffic: 2.0 to 0.2 forward as a sum over taps that fuses, 2.0 to 0.8 back as
  columns, for 28x28x1 -> 16, 3x3; back by phases where they are strided.
- vmap over kernels (many models) becomes a grouped convolution. A loop over the models, fast for the reason above,
  takes 0.36 s where that takes 1.2 s for the parameter gradients of 16 two-layer CNNs.

A convolution C(x, k), its input gradient I(g, k) and its kernel gradient K(x, g) are linear in each argument, and the
derivative of each is made of the other two. So they are three JAX primitives, `conv`, `conv_input_gradient` and
`conv_kernel_gradient`: one equation each in a jaxpr, derivatives of any order in both modes. The form is chosen when a
program is lowered for its platform; without jit, by the default backend.
Shapes: N images, height H, width W, channels in I, channels out O, kernel [h, w, I, O]; M stacked models.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from robustbench_jax.ops.winograd import winograd
from robustbench_jax.types import UserError

LAYOUT = ("NHWC", "HWIO", "NHWC")
FEW = 4  # input channels up to which columns beat a convolution back to the input, on CPU
SMALL = 900  # kernel entries up to which a sum over taps beats a convolution forward, on CPU
CACHED, SLICES = 2**17, 8  # entries of the images or of what comes back in a slice of a batch; slices at most, on CPU
MIDDLING, MANY = (48, 160), 24 * 24  # channels and pixels for which Winograd's form beats both, on CPU

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]


def conv(
    x: jax.Array, kernel: jax.Array, *, stride: int | Pair = 1, padding: str | int | Pads = "SAME", groups: int = 1
) -> jax.Array:
    """Cross-correlates x [..., H, W, I] with kernel [h, w, I / groups, O]; returns [..., H', W', O].

    padding: "SAME" or "VALID" as XLA has them, a number of zeros on every side, or ((top, bottom), (left, right)).
    Grouped convolutions take the plain form everywhere. Raises UserError where channels or sizes do not fit.
    """
    if x.shape[-1] != kernel.shape[2] * groups:
        raise UserError(
            f"conv: {x.shape[-1]} channels in, the kernel {list(kernel.shape)} takes {kernel.shape[2] * groups}"
        )
    strides = (stride, stride) if isinstance(stride, int) else tuple(stride)
    pads = _pads(padding, x.shape[-3:-1], kernel.shape[:2], strides)
    if any(n + sum(p) < k for n, p, k in zip(x.shape[-3:-1], pads, kernel.shape, strict=False)):
        raise UserError(
            f"conv: the image {list(x.shape[-3:])} with padding {pads} is smaller than the kernel {list(kernel.shape)}"
        )
    dtype = jnp.result_type(x, kernel)
    images, kernel = jnp.asarray(x, dtype).reshape(-1, *x.shape[-3:]), jnp.asarray(kernel, dtype)
    if groups == 1:
        out = conv_p.bind(images, kernel, strides=strides, pads=pads)
    else:
        out = plain(images, kernel, strides=strides, pads=pads, groups=groups)
    return out.reshape(*x.shape[:-3], *out.shape[1:])


def plain(x: jax.Array, kernel: jax.Array, *, strides: Pair, pads: Pads, groups: int = 1) -> jax.Array:
    """XLA's convolution of x [N, H, W, I]."""
    return jax.lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=LAYOUT, feature_group_count=groups)


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


def columns(x: jax.Array, window: Pair, *, strides: Pair, pads: Pads) -> jax.Array:
    """What a kernel [h, w, I, O] meets of images x [N, H, W, I] at each place: [N, H', W', h w I]."""
    seen = jnp.stack([part for _, part in _seen(x, window, strides, pads)], axis=-2)
    return seen.reshape(*seen.shape[:3], -1)


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
    return ((padding, padding),) * 2 if isinstance(padding, int) else tuple(map(tuple, padding))


# Forms on CPU, for one kernel.


def _forward(x, kernel, *, strides, pads):
    if kernel.size <= SMALL and kernel.shape[2] <= FEW:
        return _taps(x, kernel, strides=strides, pads=pads)
    return _dense(x, kernel, strides=strides, pads=pads)


def _dense(x, kernel, *, strides, pads):
    least, most = MIDDLING
    middling = least <= min(kernel.shape[2:]) and max(kernel.shape[2:]) <= most
    if kernel.shape[:2] == (3, 3) and strides == (1, 1) and middling and x.shape[1] * x.shape[2] >= MANY:
        return winograd(x, kernel, pads)
    return plain(x, kernel, strides=strides, pads=pads)


def _taps(x, kernel, *, strides, pads):
    """A sum over the kernel's entries of a slice of the image times a vector [O], which XLA fuses into one loop."""
    return sum(
        seen[..., i, None] * kernel[row, column, i]
        for (row, column), seen in _seen(x, kernel.shape[:2], strides, pads)
        for i in range(kernel.shape[2])
    )


def _columns_back(g, kernel, *, strides, pads, size):
    """Columns [N, H', W', h, w, I] of the gradient, put where they came from and added up by a product with ones.

    A plain sum would be fused into every reader of the gradient, and an attack's projection reads it fifty times.
    """
    high, wide, ins, outs = kernel.shape
    columns = (g @ kernel.reshape(-1, outs).T).reshape(*g.shape[:-1], high, wide, ins)
    taps = [
        jax.lax.pad(columns[..., i, j, :], jnp.zeros((), g.dtype), edges)
        for (i, j), edges in _back((high, wide), g.shape[1:3], strides, pads, size)
    ]
    return jnp.stack(taps, axis=-1) @ jnp.ones(len(taps), g.dtype)


def _back(window, seen, strides, pads, size) -> list[tuple[Pair, list]]:
    """Each kernel position, and the padding that puts what it saw, [N, H', W', I], where it lies in the images."""
    return [
        (
            position,
            [
                (0, 0, 0),
                *(
                    (tap - low, have + low - tap - (n - 1) * s - 1, s - 1)
                    for tap, (low, _), have, n, s in zip(position, pads, size, seen, strides, strict=True)
                ),
                (0, 0, 0),
            ],
        )
        for position in np.ndindex(*window)
    ]


def _seen(x, window, strides, pads) -> list[tuple[Pair, jax.Array]]:
    """What each kernel position sees of the images: [N, H', W', I]."""
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    down, right = ((n - k) // s * s + 1 for n, k, s in zip(x.shape[1:3], window, strides, strict=True))
    return [
        ((i, j), x[:, i : i + down : strides[0], j : j + right : strides[1]])
        for i in range(window[0])
        for j in range(window[1])
    ]


def _input_gradient(g, kernel, *, strides, pads, size):
    options = {"strides": strides, "pads": pads, "size": size}
    in_phases = strides != (1, 1) and not any(k % s for k, s in zip(kernel.shape, strides, strict=False))
    if kernel.shape[2] <= FEW and not in_phases:
        return _columns_back(g, kernel, **options)
    if (strides != (1, 1) and not in_phases) or kernel.size > g.size:
        return _taps_back(g, kernel, **options)
    return (_phases if in_phases else _full)(g, kernel, **options)


def _taps_back(g, kernel, *, strides, pads, size):
    """A product with each tap of the kernel, put where it came from; made whole, lest every reader add it up anew."""
    image = jnp.zeros((), g.dtype)
    for (i, j), edges in _back(kernel.shape[:2], g.shape[1:3], strides, pads, size):
        part = jax.lax.dot_general(g, kernel[i, j], (((3,), (1,)), ((), ())))
        image = image + jax.lax.pad(part, jnp.zeros((), g.dtype), edges)
    return jax.lax.optimization_barrier(image)


def _full(g, kernel, *, strides, pads, size):
    """Of a stride-1 convolution: one with the flipped, transposed kernel."""
    before = [k - 1 - low for k, (low, _) in zip(kernel.shape, pads, strict=False)]
    after = [n + k - 1 - have - low for n, k, have, low in zip(size, kernel.shape, g.shape[1:3], before, strict=False)]
    return _dense(
        g, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), strides=strides, pads=tuple(zip(before, after, strict=True))
    )


def _phases(g, kernel, *, strides, pads, size):
    """Of a strided convolution, by the phase r of a pixel of the padded image.

    Pixel s * q + r meets kernel rows s * a + r only, for whole a: for each phase a stride-1 convolution of g, all
    phases at once as channels, which a reshape then puts between one another.
    """
    ((down, right), (high, wide), ins) = strides, kernel.shape[:2], kernel.shape[2]
    tall, broad = -(-high // down), -(-wide // right)
    whole = jnp.pad(kernel, ((0, tall * down - high), (0, broad * right - wide), (0, 0), (0, 0)))
    split = whole.reshape(tall, down, broad, right, ins, -1)
    mixed = jnp.flip(split, (0, 2)).transpose(0, 2, 5, 1, 3, 4).reshape(tall, broad, g.shape[-1], -1)
    phases = plain(g, mixed, strides=(1, 1), pads=((tall - 1, tall - 1), (broad - 1, broad - 1)))
    rows, columns = phases.shape[1:3]
    image = phases.reshape(-1, rows, columns, down, right, ins).transpose(0, 1, 3, 2, 4, 5)
    image = image.reshape(-1, rows * down, columns * right, ins)
    crop = [(-low, n + low - have, 0) for n, (low, _), have in zip(size, pads, image.shape[1:3], strict=True)]
    return jax.lax.pad(image, jnp.zeros((), image.dtype), [(0, 0, 0), *crop, (0, 0, 0)])


def _kernel_gradient(x, g, **options):
    """Slice by slice of the batch."""
    count, largest = len(x), max(math.prod(x.shape[1:]), math.prod(g.shape[1:]))
    size = max(CACHED // largest, -(-count // SLICES), 1)
    slices = [slice(start, start + size) for start in range(0, count, size)] or [slice(0)]
    return sum(_whole_kernel_gradient(x[part], g[part], **options) for part in slices)


def _whole_kernel_gradient(x, g, *, strides, pads, window):
    """A convolution of the images, channels as batch, with g as a kernel whose taps lie `strides` apart."""
    after = [
        (have - 1) * s + k - n - low
        for have, s, k, n, (low, _) in zip(g.shape[1:3], strides, window, x.shape[1:3], pads, strict=True)
    ]
    around = [(low, high) for (low, _), high in zip(pads, after, strict=True)]
    return jax.lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3), (1, 1), around, rhs_dilation=strides, dimension_numbers=LAYOUT
    ).transpose(1, 2, 0, 3)


# Forms on accelerators: the transposes of the plain convolution.


def _transposed(form: Callable, shape: tuple, argument: int, other: jax.Array, g: jax.Array, **options) -> jax.Array:
    """The cotangent, of this shape, of one argument of form(x, kernel) for the cotangent g of its value."""

    def linear(a):
        return form(*((a, other) if argument == 0 else (other, a)), **options)

    return jax.linear_transpose(linear, jax.ShapeDtypeStruct(shape, g.dtype))(g)[0]


def _plain_input_gradient(g, kernel, *, strides, pads, size):
    return _transposed(plain, (len(g), *size, kernel.shape[2]), 0, kernel, g, strides=strides, pads=pads)


def _plain_kernel_gradient(x, g, *, strides, pads, window):
    return _transposed(plain, (*window, x.shape[-1], g.shape[-1]), 1, x, g, strides=strides, pads=pads)


# The primitives. Their operands have rank 4, or rank 5 with M models in front.


def _primitive(name: str, cpu: Callable, other: Callable, longer: tuple[Pair, Pair]) -> Primitive:
    """A bilinear map of images, kernels or gradients a and b, with its form on CPU and on other platforms.

    longer: for each operand, which axis of it, and which of the result, a vmap over this operand alone makes longer.
    """
    primitive = Primitive(name)

    def on_cpu(a, b, **options):
        return cpu(a, b, **options) if a.ndim == 4 else jax.lax.map(lambda ab: cpu(*ab, **options), (a, b))

    def elsewhere(a, b, **options):
        form = partial(other, **options)
        return form(a, b) if a.ndim == 4 else jax.vmap(form)(a, b)

    def eagerly(a, b, **options):
        return (on_cpu if jax.default_backend() == "cpu" else elsewhere)(a, b, **options)

    def shape(a, b, **options):
        return jax.core.ShapedArray(jax.eval_shape(partial(elsewhere, **options), a, b).shape, a.dtype)

    def batched(operands, dims, **options):
        return _batch(partial(primitive.bind, **options), operands, dims, longer)

    primitive.def_impl(eagerly)
    primitive.def_abstract_eval(shape)
    batching.primitive_batchers[primitive] = batched
    mlir.register_lowering(primitive, mlir.lower_fun(elsewhere, multiple_results=False))
    mlir.register_lowering(primitive, mlir.lower_fun(on_cpu, multiple_results=False), platform="cpu")
    return primitive


def _batch(bind: Callable, operands: tuple, dims: tuple, longer: tuple[Pair, Pair]) -> tuple[jax.Array, int]:
    """vmap: over one operand, as a longer axis of it; over both, as models, or as more of them."""
    if None not in dims:
        a, b = (jnp.moveaxis(o, d, 0) for o, d in zip(operands, dims, strict=True))
        if a.ndim == 5:
            return bind(a, b), 0
        out = bind(a.reshape(-1, *a.shape[2:]), b.reshape(-1, *b.shape[2:]))
        return out.reshape(*a.shape[:2], *out.shape[1:]), 0
    which = int(dims[0] is None)
    a, (axis, axis_out) = operands[which], longer[which]
    models = a.ndim - 5
    a = jnp.moveaxis(a, dims[which], axis + models)
    count, length = a.shape[axis + models : axis + models + 2]
    flat = a.reshape(*a.shape[: axis + models], count * length, *a.shape[axis + models + 2 :])
    out = bind(*((flat, operands[1]) if which == 0 else (operands[0], flat)))
    at = axis_out + models
    return out.reshape(*out.shape[:at], count, -1, *out.shape[at + 1 :]), at


conv_p = _primitive("conv", _forward, plain, ((0, 0), (3, 3)))
input_gradient_p = _primitive("conv_input_gradient", _input_gradient, _plain_input_gradient, ((0, 0), (2, 3)))
kernel_gradient_p = _primitive("conv_kernel_gradient", _kernel_gradient, _plain_kernel_gradient, ((3, 2), (3, 3)))


def _to_input(g, kernel, x, **options) -> jax.Array:
    return input_gradient_p.bind(g, kernel, size=x.aval.shape[-3:-1], **options)


def _to_kernel(x, g, kernel, **options) -> jax.Array:
    return kernel_gradient_p.bind(x, g, window=kernel.aval.shape[-4:-2], **options)


ad.defbilinear(
    conv_p,
    lambda ct, x, kernel, **o: _to_input(ct, kernel, x, **o),
    lambda ct, x, kernel, **o: _to_kernel(x, ct, kernel, **o),
)
ad.defbilinear(
    input_gradient_p,
    lambda ct, g, kernel, size, **o: conv_p.bind(ct, kernel, **o),
    lambda ct, g, kernel, size, **o: _to_kernel(ct, g, kernel, **o),
)
ad.defbilinear(
    kernel_gradient_p,
    lambda ct, x, g, window, **o: _to_input(g, ct, x, **o),
    lambda ct, x, g, window, **o: conv_p.bind(x, ct, **o),
)
