"""Patches: where they lie, what they show, and the laws of budgets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.ops.patches import join
from robustbench_jax.registry import build
from robustbench_jax.types import UserError
from tests.ops.budgets import check_the_laws, image


@pytest.mark.parametrize("text, area", [("patch(3, 2)", 6), ("patch(4, 4, smallest=0.5)", 16)])
def test_the_laws_of_budgets_hold(text, area):
    check_the_laws(build("budget", text), (7, 6, 3), limit=area)


@pytest.mark.parametrize("place, corner", [((0.0, 0.0), (0, 0)), ((1.0, 1.0), (5, 5)), ((0.5, 0.2), (3, 1))])
def test_a_patch_covers_its_rectangle_and_nothing_else(place, corner):
    budget, x, pixels = build("budget", "patch(3, 2)"), image((8, 7, 3)), image((3, 2, 3), 1)
    shown = budget.render(x, join(pixels, jnp.array([*place, 1.0])))
    expected, (row, column) = np.array(x), corner
    expected[row : row + 3, column : column + 2] = pixels
    np.testing.assert_array_equal(shown, expected)


def test_every_place_is_as_likely_as_any_other():
    budget, x = build("budget", "patch(2, 2)"), image((4, 4, 1))
    z = jax.vmap(lambda key: budget.sample(key, x))(jax.random.split(jax.random.key(0), 3000))
    corners = np.asarray(jax.vmap(lambda z: jnp.argmax(budget.area(x, z)))(z))
    places, counts = np.unique(corners, return_counts=True)
    np.testing.assert_array_equal(places, [0, 1, 2, 4, 5, 6, 8, 9, 10])
    assert np.abs(counts - 3000 / 9).max() < 5 * np.sqrt(3000 / 9)


def test_a_patch_at_half_its_scale_shows_every_other_pixel():
    budget, x, pixels = build("budget", "patch(4, 4, smallest=0.5)"), image((8, 8, 1)), image((4, 4, 1), 1)
    shown = np.asarray(budget.render(x, join(pixels, jnp.zeros(3))))
    np.testing.assert_array_equal(shown[:2, :2], np.asarray(pixels)[1::2, 1::2])
    np.testing.assert_array_equal(shown[2:], np.asarray(x)[2:])


def test_a_patch_larger_than_the_image_is_refused():
    with pytest.raises(UserError, match=r"patch\(9, 2\) is larger than the image, 8 x 8"):
        build("budget", "patch(9, 2)").identity(image((8, 8, 1)))
    with pytest.raises(UserError, match="height = 0 must be at least 1 pixel"):
        build("budget", "patch(0, 2)")
