"""Convolution and pooling against the plain XLA forms: values, derivatives, vmaps, loops, other platforms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.ops import layers
from robustbench_jax.types import UserError

CASES = [  # side, channels in, window, channels out, stride, padding
    (9, 1, 3, 4, 1, 1),
    (9, 3, 4, 5, 2, 1),
    (8, 8, 4, 6, 2, 1),
    (9, 8, 3, 6, 2, "SAME"),
    (10, 6, 3, 4, 3, "VALID"),
    (7, 6, 1, 5, 2, 0),
    (11, 5, 7, 4, 2, 3),
    (8, 16, 3, 8, 1, "SAME"),
    (6, 5, 5, 3, 1, ((2, 1), (0, 3))),
    (5, 6, 2, 3, 1, 3),
    (13, 6, 2, 4, 3, "SAME"),
    (8, 2, 4, 3, 4, 0),
    (9, 3, 4, 80, (2, 1), "SAME"),
    (12, 6, 4, 5, (3, 2), ((1, 0), (2, 3))),
    (4, 24, 3, 32, 1, 1),  # the kernel larger than the images
    (24, 48, 3, 52, 1, 1),  # Winograd's form
    (27, 48, 3, 48, 1, ((0, 1), (2, 0))),
]
each = pytest.mark.parametrize("case", CASES, ids=str)
some = pytest.mark.parametrize("case", CASES[:3], ids=str)


def draw(case, batch=3, models=()):
    side, ins, window, outs = case[:4]
    rng = np.random.default_rng(side * 100 + ins)
    x = rng.normal(size=(*models, batch, side, side, ins)).astype(np.float32)
    return x, rng.normal(size=(*models, window, window, ins, outs)).astype(np.float32)


def forms(case):
    """The convolution under test, and XLA's."""
    strides, padding = case[4:]

    def theirs(x, kernel):
        both = strides if isinstance(strides, tuple) else (strides, strides)
        around = ((padding, padding),) * 2 if isinstance(padding, int) else padding
        return jax.lax.conv_general_dilated(x, kernel, both, around, dimension_numbers=layers.LAYOUT)

    return partial(layers.conv, stride=strides, padding=padding), theirs


def gradients(form):
    return jax.grad(lambda x, kernel: jnp.sum(jnp.sin(form(x, kernel))), (0, 1))


def close(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4 * max(1.0, float(np.abs(b).max())))


def agree(transformed, case, *arrays):
    ours, theirs = (jax.jit(transformed(form))(*arrays) for form in forms(case))
    close(ours, theirs)


@each
def test_conv_and_both_its_gradients_equal_the_plain_convolution(case):
    x, kernel = draw(case)
    agree(lambda form: form, case, x, kernel)
    agree(gradients, case, x, kernel)


@each
def test_accelerators_get_the_same_from_their_forms(case, monkeypatch):
    x, kernel = draw(case)
    expected = [jax.tree.map(np.asarray, f(forms(case)[1])(x, kernel)) for f in (lambda form: form, gradients)]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # without jit, the form follows the default backend
    close([f(forms(case)[0])(x, kernel) for f in (lambda form: form, gradients)], expected)


@some
@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)], ids=str)
def test_vmap_over_images_kernels_or_both_equals_the_plain_convolution(case, axes):
    drawn = draw(case, models=(4,))
    x, kernel = (a if axis == 0 else a[0] for a, axis in zip(drawn, axes, strict=True))
    agree(lambda form: jax.vmap(form, axes), case, x, kernel)
    agree(lambda form: jax.vmap(gradients(form), axes), case, x, kernel)
    agree(lambda form: gradients(jax.vmap(form, axes)), case, x, kernel)


@some
def test_vmaps_of_models_over_examples_and_of_examples_over_models_nest(case):
    x, kernel = draw(case, models=(2,))

    def per_example(form):
        return jax.vmap(lambda image, kernel: gradients(form)(image[None], kernel), (0, None))

    agree(lambda form: jax.vmap(per_example(form)), case, x, kernel)
    agree(lambda form: jax.vmap(jax.vmap(gradients(form), (None, 0)), (0, None)), case, x, kernel)
    agree(lambda form: jax.vmap(jax.vmap(gradients(form)), (None, 0)), case, x, np.stack([kernel, -kernel, 2 * kernel]))


@some
def test_second_derivatives_equal_those_of_the_plain_convolution(case):
    x, kernel = draw(case)
    agree(lambda form: jax.grad(lambda *a: sum(jnp.sum(g**2) for g in gradients(form)(*a)), (0, 1)), case, x, kernel)


@some
def test_forward_mode_alone_and_over_reverse_mode_equals_that_of_the_plain_convolution(case):
    x, kernel = draw(case)
    agree(lambda form: lambda *a: jax.jvp(form, a, (jnp.cos(a[0]), jnp.sin(a[1]))), case, x, kernel)
    agree(lambda form: lambda *a: jax.jvp(gradients(form), a, (jnp.cos(a[0]), jnp.sin(a[1]))), case, x, kernel)


@some
def test_gradient_steps_in_a_compiled_loop_equal_steps_one_by_one(case):
    x, kernel = draw(case)

    def step(_, both):
        return jax.tree.map(lambda a, g: a - 1e-3 * g, both, gradients(forms(case)[0])(*both))

    one_by_one = (x, kernel)
    for i in range(3):
        one_by_one = jax.jit(step)(i, one_by_one)
    close(jax.jit(lambda both: jax.lax.fori_loop(0, 3, step, both))((x, kernel)), one_by_one)


def test_one_example_at_a_time_equals_the_batch_and_keeps_leading_dims():
    x, kernel = draw((8, 8, 4, 6))
    batch = layers.conv(x, kernel, stride=2, padding=1)
    close(jax.vmap(lambda image: layers.conv(image, kernel, stride=2, padding=1))(x), batch)
    close(layers.conv(x[None, None], kernel, stride=2, padding=1), batch[None, None])


def test_a_convolution_and_each_gradient_are_one_equation_of_a_jaxpr():
    x, kernel = draw(CASES[0])
    text = str(jax.make_jaxpr(gradients(layers.conv))(x, kernel))
    assert [text.count(f" {name}[") for name in ("conv", "conv_input_gradient", "conv_kernel_gradient")] == [1, 1, 1]
    assert "conv_general_dilated" not in text


def test_on_a_gpu_the_program_is_that_of_the_plain_convolution_with_no_loop_over_models():
    x, kernel = draw(CASES[2], models=(4,))
    traced = [jax.jit(jax.vmap(gradients(form))).trace(x, kernel) for form in forms(CASES[2])]
    ours, theirs = (program.lower(lowering_platforms=("cuda",)).as_text() for program in traced)
    assert ours.count("stablehlo.convolution(") == theirs.count("stablehlo.convolution(") == 3
    assert "stablehlo.while" not in ours
    assert "stablehlo.while" in traced[0].lower(lowering_platforms=("cpu",)).as_text()


def test_grouped_convolutions_take_the_plain_form():
    x, _ = draw((8, 8, 3, 6))
    kernel = np.random.default_rng(0).normal(size=(3, 3, 2, 8)).astype(np.float32)
    groups = [layers.conv(x[..., 2 * i : 2 * i + 2], kernel[..., 2 * i : 2 * i + 2]) for i in range(4)]
    close(layers.conv(x, kernel, groups=4), np.concatenate(groups, axis=-1))


def test_half_precision_stays_half_and_mixed_precision_takes_the_wider():
    x, kernel = draw(CASES[0])
    half = layers.conv(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16 and layers.conv(x, kernel.astype(jnp.bfloat16)).dtype == jnp.float32
    np.testing.assert_allclose(half.astype(np.float32), layers.conv(x, kernel), atol=0.1)


def test_channels_that_do_not_fit_are_named():
    with pytest.raises(UserError, match=r"8 channels in, the kernel \[3, 3, 4, 6\] takes 4"):
        layers.conv(np.zeros((1, 8, 8, 8), np.float32), np.zeros((3, 3, 4, 6), np.float32))


def test_an_image_smaller_than_the_kernel_is_an_error():
    with pytest.raises(UserError, match=r"the image \[2, 8, 1\] with padding \(\(0, 0\), \(0, 0\)\) is smaller"):
        layers.conv(np.zeros((2, 8, 1), np.float32), np.zeros((3, 3, 1, 6), np.float32), padding="VALID")


@pytest.mark.parametrize("pool, reduce", [(layers.max_pool, np.max), (layers.avg_pool, np.mean)])
def test_pooling_equals_a_loop_over_windows(pool, reduce):
    x = np.random.default_rng(0).normal(size=(2, 7, 7, 3)).astype(np.float32)
    for window, stride in ((2, None), (3, 2)):
        step = stride or window
        spots = range(0, 7 - window + 1, step)
        expected = np.stack(
            [np.stack([reduce(x[:, i : i + window, j : j + window], axis=(1, 2)) for j in spots], 1) for i in spots], 1
        )
        np.testing.assert_allclose(pool(x, window, stride), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pool", [layers.max_pool, layers.avg_pool])
def test_the_gradient_of_pooling_is_the_same_by_reshape_and_by_windows(pool):
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype(np.float32)

    def gradient(**options):
        return jax.grad(lambda x: jnp.sum(jnp.sin(pool(x, 2, **options))))(x)

    framed = np.pad(gradient(), ((0, 0), (0, 2), (0, 2), (0, 0)))[:, :6, :6]
    by_windows = jax.grad(lambda x: jnp.sum(jnp.sin(pool(x[:, 1:-1, 1:-1], 2, padding=((0, 1), (0, 1))))))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    np.testing.assert_allclose(by_windows(padded)[:, 1:-1, 1:-1], framed, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cached, slices", [(200, 8), (1, 3), (2**17, 8)])
def test_the_kernel_gradient_in_slices_of_the_batch_is_that_of_all_of_it(monkeypatch, cached, slices):
    """Of 10 images: in slices of 3 and a last one, of 4, and in one."""
    monkeypatch.setattr(layers, "CACHED", cached)
    monkeypatch.setattr(layers, "SLICES", slices)
    rng = np.random.default_rng(0)
    x, g = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((10, 6, 5, 2), (10, 3, 3, 2)))
    options = {"strides": (2, 2), "pads": ((1, 1), (1, 1)), "window": (3, 3)}
    whole = layers._plain_kernel_gradient(x, g, **options)
    np.testing.assert_allclose(layers._kernel_gradient(x, g, **options), whole, rtol=1e-5, atol=1e-5)
