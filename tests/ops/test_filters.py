"""Filters against SciPy's: smoothing, correlation, reading between pixels, enlarging; and streaks and plasma."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from robustbench_jax.attacks.corruption.blur import zoomed
from robustbench_jax.ops import filters

SCIPY = {"edge": "nearest", "symmetric": "reflect", "reflect": "mirror"}  # NumPy's names and SciPy's


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).random((11, 14, 3), np.float32)


@pytest.mark.parametrize("border", SCIPY)
@pytest.mark.parametrize("sigma, truncate", [(0.4, 4.0), (1.0, 4.0), (2.5, 3.0)])
def test_gaussian_is_scipys(image, sigma, truncate, border):
    expected = ndimage.gaussian_filter(image, (sigma, sigma, 0), mode=SCIPY[border], truncate=truncate)
    found = filters.gaussian(image, sigma, most=3.0, truncate=truncate, border=border)
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_gaussian_of_sigma_0_changes_nothing(image):
    np.testing.assert_allclose(filters.gaussian(image, 0.0, most=2.0), image, atol=1e-6)


@pytest.mark.parametrize("border", ["reflect", "symmetric", "edge"])
def test_convolve_correlates_each_channel(image, border):
    kernel = np.random.default_rng(1).random((5, 5), np.float32)
    expected = ndimage.correlate(image, kernel[..., None], mode=SCIPY[border])
    np.testing.assert_allclose(filters.convolve(image, jnp.asarray(kernel), border), expected, rtol=1e-5)


@pytest.mark.parametrize("border", SCIPY)
def test_warp_reads_between_pixels_and_far_outside(image, border):
    rows, columns = np.random.default_rng(2).uniform(-30, 40, (2, 9, 8)).astype(np.float32)
    places = [ndimage.map_coordinates(image[..., c], (rows, columns), order=1, mode=SCIPY[border]) for c in range(3)]
    found = filters.warp(image, rows, columns, border)
    np.testing.assert_allclose(found, np.stack(places, -1), atol=1e-4)


@pytest.mark.parametrize("zoom", [1.0, 1.04, 1.31, 1.75, 2.25, 4.5])
@pytest.mark.parametrize("n", [16, 33])
def test_enlarging_the_centre_is_scipys_zoom_cropped(zoom, n):
    image = np.random.default_rng(3).random((n, n, 1), np.float32)
    crop = int(np.ceil(n / zoom))
    top = (n - crop) // 2
    large = ndimage.zoom(image[top : top + crop, top : top + crop], (zoom, zoom, 1), order=1)
    trim = (len(large) - n) // 2
    expected = large[trim : trim + n, trim : trim + n]
    np.testing.assert_allclose(zoomed(image, (zoom,) * 5, 1), expected, atol=1e-5)


def test_a_streak_to_the_right_smears_a_point_to_its_left_by_half_a_gaussian():
    point = np.zeros((21, 21, 1), np.float32)
    point[10, 15] = 1
    found = np.asarray(filters.streak(point, 3, 1.5, 0.0, most=4))[..., 0]
    weights = np.exp(-0.5 * (np.arange(7) / 1.5) ** 2)
    np.testing.assert_allclose(found[10, 15:8:-1], weights / weights.sum(), atol=1e-6)
    assert np.count_nonzero(found) == 7


def test_a_streak_goes_in_whole_pixel_steps_along_its_angle():
    point = np.zeros((21, 21, 1), np.float32)
    point[10, 10] = 1
    rows, columns = np.nonzero(np.asarray(filters.streak(point, 2, 5.0, 45.0, most=2))[..., 0])
    np.testing.assert_array_equal(10 - rows, 10 - columns)
    np.testing.assert_array_equal(np.unique(10 - rows), [0, 1, 2, 3])  # steps 0 to 4 of length 0.71, rounded


@pytest.mark.parametrize("radius, most", [(2, 2), (2, 9), (20, 20)])
def test_a_streak_leaves_an_even_image_alone_whatever_the_bound(radius, most):
    even = np.full((8, 9, 2), 0.3, np.float32)
    np.testing.assert_allclose(filters.streak(even, radius, 2.0, -77.0, most=most), even, atol=1e-6)


@pytest.fixture(scope="module")
def plasmas():
    """64 maps of 32 pixels by how fast their detail decays."""
    many = jax.jit(jax.vmap(lambda key, decay: filters.plasma(key, 32, decay), (0, None)))
    return {decay: np.asarray(many(jax.random.split(jax.random.key(0), 64), decay)) for decay in (1.4, 2.0, 3.0)}


def test_plasma_lies_between_0_and_1_and_touches_both(plasmas):
    for maps in plasmas.values():
        np.testing.assert_allclose(maps.min((1, 2)), 0, atol=1e-6)
        np.testing.assert_allclose(maps.max((1, 2)), 1, atol=1e-6)


def test_plasma_is_rougher_where_its_detail_decays_slowly(plasmas):
    slow, middle, fast = (np.abs(np.diff(maps, axis=1)).mean() for maps in plasmas.values())
    assert slow > 1.8 * middle > 2.1 * fast


def test_plasma_wraps_around(plasmas):
    """The last column lies beside the first: their difference is that of any two neighbours, not of strangers."""
    maps = plasmas[3.0]
    beside, around = np.abs(np.diff(maps, axis=2)).mean(), np.abs(maps[:, :, 0] - maps[:, :, -1]).mean()
    strangers = np.abs(maps[:, :, 0] - maps[:, :, 16]).mean()
    assert around < 1.5 * beside < strangers / 2


def test_plasma_has_any_power_of_two():
    assert filters.plasma(jax.random.key(0), 4, 2.0).shape == (4, 4)
