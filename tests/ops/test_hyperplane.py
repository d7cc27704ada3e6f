"""The nearest point of a hyperplane in the box, against a linear program and a bisection in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq, linprog

from robustbench_jax.ops import hyperplane

NORMS = (np.inf, 2, 1)


def problem(seed: int, share: float, count: int = 12):
    """Image z, gradient w with some zeros, and a share of what the box lets <w, z> be lowered by."""
    rng = np.random.default_rng(seed)
    z, w = rng.uniform(size=count), rng.normal(size=count) * rng.choice([0, 1, 1, 10], count)
    z[:3] = 0, 1, z[2]
    lowest = np.sum(w * np.where(w > 0, -z, 1 - z))
    return z, w, -share * lowest


def smallest(p: float, z: np.ndarray, w: np.ndarray, c: float) -> float:
    """The p-norm of the smallest d with <w, d> = -c and z + d in the box."""
    if p == 2:  # d = clip(-t w) for the t that meets the constraint
        moved = lambda t: np.clip(z - t * w, 0, 1) - z  # noqa: E731
        t = brentq(lambda t: w @ moved(t) + c, 0, 1e6, xtol=1e-14)
        return float(np.linalg.norm(moved(t)))
    n = len(z)
    if p == 1:  # d = up - down
        bounds = [(0, 1 - v) for v in z] + [(0, v) for v in z]
        return linprog(np.ones(2 * n), A_eq=[[*w, *-w]], b_eq=[-c], bounds=bounds).fun
    size = -np.ones((n, 1))
    above = np.block([[np.eye(n), size], [-np.eye(n), size]])
    bounds = [(-v, 1 - v) for v in z] + [(0, None)]
    cost = np.eye(n + 1)[n]
    return linprog(cost, A_ub=above, b_ub=np.zeros(2 * n), A_eq=[[*w, 0]], b_eq=[-c], bounds=bounds).fun


@pytest.mark.parametrize("p", NORMS)
def test_the_step_is_the_smallest_one_to_the_hyperplane_inside_the_box(p):
    step = jax.jit(jax.vmap(lambda *a: hyperplane.step(p, *a)))
    cases = [problem(seed, share) for seed in range(12) for share in (0.05, 0.5, 0.97)]
    z, w, c = (jnp.asarray(np.stack(parts), jnp.float32) for parts in zip(*cases, strict=True))
    found = np.asarray(step(z, w, c), np.float64)
    for d, (z, w, c) in zip(found, cases, strict=True):
        assert np.all(z + d >= -1e-6) and np.all(z + d <= 1 + 1e-6)
        assert w @ d == pytest.approx(-c, abs=2e-5 * np.abs(w).sum())
        assert np.linalg.norm(d, p) == pytest.approx(smallest(p, z, w, c), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("p", NORMS)
def test_a_negative_distance_is_stepped_over_from_the_other_side(p):
    z, w, c = (jnp.asarray(part, jnp.float32) for part in problem(0, 0.3))
    np.testing.assert_array_equal(hyperplane.step(p, z, -w, -c), hyperplane.step(p, z, w, c))
    assert jnp.all(hyperplane.step(p, z, w, jnp.zeros(())) == 0)


@pytest.mark.parametrize("p", NORMS)
def test_where_the_box_does_not_reach_the_hyperplane_the_step_ends_in_its_corner(p):
    z, w, c = (jnp.asarray(part, jnp.float32) for part in problem(1, 1.5))
    moved = np.asarray(z + hyperplane.step(p, z, w, c))
    np.testing.assert_allclose(moved[w > 0], 0, atol=1e-6)
    np.testing.assert_allclose(moved[w < 0], 1, atol=1e-6)
    np.testing.assert_array_equal(moved[w == 0], np.asarray(z)[w == 0])


@pytest.mark.parametrize("p", NORMS)
def test_a_gradient_of_zeros_moves_nothing(p):
    z, nothing = jnp.full(5, 0.5), jnp.zeros(5)
    assert jnp.all(hyperplane.step(p, z, nothing, jnp.ones(())) == 0)
