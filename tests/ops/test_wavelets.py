"""Scattering against values of Kymatio, and what its definition makes certain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.ops.wavelets import filters, padded, paths, scattered

# Kymatio 0.3.0, kymatio.numpy.Scattering2D(J, (H, W), L)(x), of the images of `image`: the sum of all values, the sum
# of their squares, and those of path 0, of the last of first order and of the last path at the places [0, 0] and
# [-1, -2]. It writes 3.1415 for pi, once in each filter.
KYMATIO = {
    (28, 28, 2, 8): (79.37749, 14.58345, 0.4747856, 0.4848295, 0.0316753, 0.02087514, 0.008548899, 0.008792258),
    (32, 24, 3, 4): (18.24643, 3.596222, 0.4794434, 0.5099812, 0.009500496, 0.01748672, 0.002320838, 0.007345655),
    (13, 10, 1, 6): (27.07641, 8.379253, 0.4493901, 0.4999045, 0.0554342, 0.04827626, 0.0554342, 0.04827626),
}


def image(high, wide):
    rows, columns = np.mgrid[:high, :wide]
    return ((7 * rows + 3 * columns + rows * columns) % 17 / 16).astype(np.float32)[..., None]


@pytest.mark.parametrize("setting", KYMATIO, ids=str)
def test_values_are_those_of_kymatio(setting):
    high, wide, scales, angles = setting
    found = np.asarray(jax.jit(scattered, static_argnums=(1, 2))(image(high, wide), scales, angles))
    assert found.shape == (high // 2**scales, wide // 2**scales, paths(scales, angles))
    total, squares, *entries = KYMATIO[setting]
    assert found.sum() == pytest.approx(total, rel=1e-4)
    assert (found**2).sum() == pytest.approx(squares, rel=2e-4)
    places = [(0, 0), (-1, -2)]
    some = [found[row, column, k] for k in (0, scales * angles, -1) for row, column in places]
    np.testing.assert_allclose(some, entries, rtol=2e-4)


def test_every_wavelet_has_sum_0_and_the_average_sum_1():
    low, waves = filters(36, 36, 2, 8)
    for spectrum in waves.values():
        np.testing.assert_allclose(spectrum[:, 0, 0], 0, atol=1e-7)
        assert np.all(spectrum.max((1, 2)) > 0.5)
    np.testing.assert_allclose([each[0, 0] for each in low], 1, rtol=1e-6)


def test_of_an_image_of_one_grey_only_the_average_is_left():
    found = scattered(jnp.full((16, 16, 1), 0.7), 2, 4)
    np.testing.assert_allclose(found[..., 0], 0.7, rtol=1e-5)
    assert np.abs(found[..., 1:]).max() < 3e-6


@pytest.mark.parametrize("j, k", [(0, 0), (0, 5), (1, 3), (1, 6)])
def test_a_wave_is_answered_loudest_by_the_wavelet_of_its_length_and_direction(j, k):
    angle, frequency = (3 - k) * np.pi / 8, 0.75 * np.pi / 2**j
    rows, columns = np.mgrid[:32, :32]
    wave = 0.5 + 0.5 * np.cos(frequency * (rows * np.cos(angle) + columns * np.sin(angle)))
    found = scattered(jnp.asarray(wave[..., None], jnp.float32), 2, 8)
    assert np.argmax(found[4, 4, 1:17]) == 8 * j + k


def test_channels_and_images_do_not_see_each_other():
    x = np.stack([image(16, 16)[..., 0], image(16, 16)[::-1, :, 0]], -1)
    both, alone = scattered(np.stack([x, 1 - x]), 2, 2), scattered(x[..., 1:], 2, 2)
    assert both.shape == (2, 4, 4, 2 * paths(2, 2))
    np.testing.assert_allclose(both[0, ..., paths(2, 2) :], alone, atol=1e-5)


def test_the_slope_is_finite_where_the_image_is_black():
    slope = jax.grad(lambda x: scattered(x, 2, 2).sum())(jnp.zeros((16, 16, 1)))
    assert np.all(np.isfinite(slope))


def test_the_border_is_as_wide_as_kymatio_has_it():
    assert [padded(side, 2) for side in (28, 32, 30)] == [36, 40, 36]
