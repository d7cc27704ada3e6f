"""Recoloured images: one function of the colour, and the laws of budgets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.registry import build
from tests.ops.budgets import check_the_laws, image


@pytest.mark.parametrize("shape", [(6, 5, 1), (6, 5, 3)])
def test_the_laws_of_budgets_hold(shape):
    check_the_laws(build("budget", "recolour(0.1, resolution=4)"), shape, limit=0.1)


def test_pixels_of_one_colour_keep_one_colour():
    budget = build("budget", "recolour(0.3, resolution=5)")
    x = jnp.round(2 * image((8, 8, 3))) / 2  # 27 colours
    shown = np.asarray(budget.render(x, budget.sample(jax.random.key(0), x))).reshape(-1, 3)
    colours = np.asarray(x).reshape(-1, 3)
    for colour in np.unique(colours, axis=0):
        assert np.ptp(shown[np.all(colours == colour, axis=1)], axis=0).max() == 0


def test_no_pixel_moves_by_more_than_eps():
    budget, x = build("budget", "recolour(0.1, resolution=4)"), image((9, 9, 3))
    z = 0.1 * jnp.sign(budget.sample(jax.random.key(0), x))
    assert float(jnp.max(jnp.abs(budget.render(x, z) - x))) <= 0.1 + 1e-6


def test_a_constant_change_is_added_and_cut_by_the_box():
    budget, x = build("budget", "recolour(0.2)"), image((5, 5, 1))
    shown = budget.render(x, jnp.full_like(budget.identity(x), 0.2))
    np.testing.assert_allclose(shown, jnp.minimum(x + 0.2, 1.0), atol=1e-6)
