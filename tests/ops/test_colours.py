"""Colours against Python's colorsys, pixel by pixel."""

import colorsys

import numpy as np
import pytest

from robustbench_jax.ops import colours


@pytest.fixture(scope="module")
def image():
    x = np.random.default_rng(0).random((5, 6, 3), np.float32)
    x[0, 0], x[0, 1], x[0, 2] = 0, 1, 0.5  # black, white, grey
    return x


def by_hsv(x, change):
    """Each pixel through HSV, changed there, and back."""
    changed = [colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*map(float, rgb)))) for rgb in x.reshape(-1, 3)]
    return np.array(changed).reshape(x.shape)


@pytest.mark.parametrize("amount", [0.0, 0.05, 0.3, 0.9])
def test_brightening_adds_to_the_value_of_hsv(image, amount):
    expected = by_hsv(image, lambda h, s, v: (h, s, min(v + amount, 1)))
    np.testing.assert_allclose(colours.brighten(image, amount), expected, atol=1e-6)


@pytest.mark.parametrize("factor, amount", [(0.1, 0), (0.3, 0), (2, 0.1), (20, 0.2)])
def test_saturating_multiplies_and_adds_to_the_saturation_of_hsv(image, factor, amount):
    expected = by_hsv(image, lambda h, s, v: (h, min(s * factor + amount, 1), v))
    np.testing.assert_allclose(colours.saturate(image, factor, amount), expected, atol=1e-5)


def test_a_grey_image_brightens_by_its_level_and_has_no_saturation():
    grey = np.array([0.0, 0.4, 0.95], np.float32).reshape(1, 3, 1)
    np.testing.assert_allclose(colours.brighten(grey, 0.2).ravel(), [0.2, 0.6, 1.0], atol=1e-6)
    assert colours.saturate(grey, 20.0, 0.2) is grey


def test_luminance_is_that_of_television_and_a_mean_for_other_channels():
    np.testing.assert_allclose(colours.luminance(np.eye(3)[None]).ravel(), [0.299, 0.587, 0.114], atol=1e-6)
    np.testing.assert_allclose(colours.luminance(np.array([[[0.2, 0.4]]])), [[[0.3]]], atol=1e-6)


def test_a_tint_is_a_colour_or_its_luminance():
    rgb = np.array([0.1, 0.5, 0.9])
    np.testing.assert_allclose(colours.tint(rgb, 3), rgb, atol=1e-6)
    np.testing.assert_allclose(colours.tint(rgb, 1), [rgb @ colours.LUMA], atol=1e-6)
