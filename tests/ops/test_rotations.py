"""Turned and moved images: known answers, and the laws that every budget obeys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.ops.warp import bilinear
from robustbench_jax.registry import build
from robustbench_jax.types import UserError
from tests.ops.budgets import check_the_laws, image


@pytest.mark.parametrize("shape", [(7, 7, 1), (8, 6, 3)])
def test_the_laws_of_budgets_hold(shape):
    check_the_laws(build("budget", "rotation_translation(30, 2)"), shape)


@pytest.mark.parametrize("side", [7, 8])
@pytest.mark.parametrize("quarters", [1, -1, 2])
def test_a_quarter_turn_is_that_of_numpy(side, quarters):
    budget, x = build("budget", "rotation_translation(180, 0)"), image((side, side, 3))
    turned = budget.render(x, jnp.array([quarters / 2, 0.0, 0.0]))
    np.testing.assert_allclose(turned, np.rot90(x, quarters), atol=1e-5)


def test_a_whole_shift_moves_pixels_and_leaves_black():
    budget, x = build("budget", "rotation_translation(0, 2)"), image((6, 6, 1))
    moved = np.asarray(budget.render(x, jnp.array([0.0, 1.0, -0.5])))
    np.testing.assert_array_equal(moved[2:, :-1], np.asarray(x)[:-2, 1:])
    assert not moved[:2].any() and not moved[:, -1].any()


def test_half_a_pixel_is_the_mean_of_two():
    x = image((1, 4, 1))
    got = bilinear(x, jnp.zeros((1, 3)), jnp.array([[0.5, 1.5, 2.5]]), outside="edge")
    np.testing.assert_allclose(got, (x[:, :-1] + x[:, 1:]) / 2, rtol=1e-6)


def test_the_turn_has_the_gradient_of_finite_differences():
    """On a smooth image; bilinear interpolation is not differentiable where a line of pixels is met."""
    lines = jnp.linspace(0, 2, 12)
    x = (0.5 + 0.4 * jnp.sin(lines[:, None] + 2 * lines))[..., None]
    budget, z = build("budget", "rotation_translation(30, 2)"), jnp.array([0.31, 0.13, -0.27])

    @jax.jit
    def loss(z):
        return jnp.sum(budget.render(x, z) * jnp.cos(3 * lines)[:, None, None])

    step = 2e-3
    numeric = [(loss(z.at[i].add(step)) - loss(z.at[i].add(-step))) / (2 * step) for i in range(3)]
    np.testing.assert_allclose(jax.grad(loss)(z), numeric, rtol=0.05, atol=0.05)


def test_a_negative_turn_is_refused():
    with pytest.raises(UserError, match="degrees = -1.0 must be a finite number"):
        build("budget", "rotation_translation(-1, 2)")
