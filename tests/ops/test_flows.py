"""Flows: known displacements, and the laws of budgets."""

import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.registry import build
from robustbench_jax.types import UserError
from tests.ops.budgets import check_the_laws, image


@pytest.mark.parametrize("spacing", [1, 3])
@pytest.mark.parametrize("shape", [(7, 7, 1), (8, 6, 3)])
def test_the_laws_of_budgets_hold(spacing, shape):
    check_the_laws(build("budget", f"flow(1.5, spacing={spacing})"), shape, limit=1.5)


@pytest.mark.parametrize("spacing", [1, 2, 4])
def test_the_same_whole_displacement_everywhere_is_a_shift_that_repeats_the_edge(spacing):
    budget, x = build("budget", f"flow(1.0, spacing={spacing})"), image((7, 7, 2))
    moved = budget.render(x, jnp.broadcast_to(jnp.array([1.0, 0.0]), budget.identity(x).shape))
    np.testing.assert_allclose(moved, np.concatenate([x[1:], x[-1:]]), atol=1e-6)


def test_displacements_between_grid_points_are_means_of_theirs():
    budget, x = build("budget", "flow(1.0, spacing=2)"), image((5, 5, 1))
    z = jnp.zeros((3, 3, 2)).at[1, 1].set(jnp.array([1.0, -0.5]))
    moved = np.asarray(budget.displacement(x, z))
    np.testing.assert_allclose(moved[2, 2], [1.0, -0.5])
    np.testing.assert_allclose(moved[2, 1], [0.5, -0.25])
    np.testing.assert_allclose(moved[1, 1], [0.25, -0.125])
    assert not moved[0].any()


def test_a_flow_of_no_pixels_is_refused():
    with pytest.raises(UserError, match="spacing = 0 must be at least 1 pixel"):
        build("budget", "flow(1.0, spacing=0)")
