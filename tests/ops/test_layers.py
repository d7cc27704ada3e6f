"""Convolutions and pooling against the plain XLA forms, values and derivatives."""

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
    (13, 6, 2, 4, 3, "SAME"),
    (8, 2, 4, 3, 4, 0),
]


def plain(x, kernel, stride, padding):
    pads = layers._pads(padding, x.shape[1:3], kernel.shape[:2], (stride, stride))
    return layers._plain(x, kernel, (stride, stride), pads)


def draw(side, ins, window, outs, batch=3, models=()):
    rng = np.random.default_rng(side * 100 + ins)
    x = rng.normal(size=(*models, batch, side, side, ins)).astype(np.float32)
    return x, rng.normal(size=(*models, window, window, ins, outs)).astype(np.float32)


def close(ours, theirs):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4 * max(1.0, float(np.abs(b).max())))


@pytest.mark.parametrize("side, ins, window, outs, stride, padding", CASES)
def test_conv_and_both_its_gradients_equal_the_plain_convolution(side, ins, window, outs, stride, padding):
    x, kernel = draw(side, ins, window, outs)

    def ours(x, kernel):
        return jnp.sum(jnp.sin(layers.conv(x, kernel, stride=stride, padding=padding)))

    def theirs(x, kernel):
        return jnp.sum(jnp.sin(plain(x, kernel, stride, padding)))

    close(layers.conv(x, kernel, stride=stride, padding=padding), plain(x, kernel, stride, padding))
    close(jax.grad(ours, (0, 1))(x, kernel), jax.grad(theirs, (0, 1))(x, kernel))


@pytest.mark.parametrize("side, ins, window, outs, stride, padding", CASES[:5])
@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
def test_vmap_over_images_kernels_or_both_equals_a_loop(side, ins, window, outs, stride, padding, axes):
    x, kernel = draw(side, ins, window, outs, models=(4,))
    x, kernel = (a if axis == 0 else a[0] for a, axis in zip((x, kernel), axes, strict=True))

    def gradients(conv):
        def loss(x, kernel):
            return jnp.sum(jnp.sin(conv(x, kernel)))

        return jax.grad(loss, (0, 1))

    def ours(x, kernel):
        return layers.conv(x, kernel, stride=stride, padding=padding)

    def theirs(x, kernel):
        return plain(x, kernel, stride, padding)

    close(jax.vmap(ours, axes)(x, kernel), jax.vmap(theirs, axes)(x, kernel))
    close(jax.vmap(gradients(ours), axes)(x, kernel), jax.vmap(gradients(theirs), axes)(x, kernel))


@pytest.mark.parametrize("side, ins, window, outs, stride, padding", CASES[:4])
def test_second_derivatives_equal_those_of_the_plain_convolution(side, ins, window, outs, stride, padding):
    x, kernel = draw(side, ins, window, outs)

    def penalty(conv):
        def loss(x, kernel):
            return jnp.sum(jnp.sin(conv(x, kernel)))

        def squared(x, kernel):
            return jnp.sum(jax.grad(loss)(x, kernel) ** 2)

        return jax.grad(squared, (0, 1))

    close(
        penalty(lambda x, k: layers.conv(x, k, stride=stride, padding=padding))(x, kernel),
        penalty(lambda x, k: plain(x, k, stride, padding))(x, kernel),
    )


def test_one_example_at_a_time_equals_the_batch_and_keeps_leading_dims():
    x, kernel = draw(8, 8, 4, 6)
    batch = layers.conv(x, kernel, stride=2, padding=1)
    close(jax.vmap(lambda image: layers.conv(image, kernel, stride=2, padding=1))(x), batch)
    close(layers.conv(x[None, None], kernel, stride=2, padding=1), batch[None, None])


def test_grouped_convolutions_take_the_plain_form():
    x, _ = draw(8, 8, 3, 6)
    kernel = np.random.default_rng(0).normal(size=(3, 3, 2, 8)).astype(np.float32)
    close(layers.conv(x, kernel, groups=4), layers._plain(x, kernel, (1, 1), ((1, 1), (1, 1)), groups=4))


def test_channels_that_do_not_fit_are_named():
    with pytest.raises(UserError, match=r"8 channels in, the kernel \[3, 3, 4, 6\] takes 4"):
        layers.conv(np.zeros((1, 8, 8, 8), np.float32), np.zeros((3, 3, 4, 6), np.float32))


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
