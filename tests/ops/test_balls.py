"""Balls: projections against slow exact solvers in float64, bounds in float32, directions, random starts."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import optimize, stats

from robustbench_jax.ops.balls import L0, L1, L2, Linf
from robustbench_jax.registry import build, discover
from robustbench_jax.types import UserError

BALLS = [Linf(0.1), L2(0.5), L1(1.5), L0(3.0)]
TOLERANCE = 1e-6  # relative, of the size against eps
D = 8

project = jax.jit(lambda ball, x, z: ball.project(x, z))
along = jax.jit(lambda ball, x, z, g, fraction: ball.along(x, z, g, fraction))
samples = jax.jit(jax.vmap(lambda ball, key, x: ball.sample(key, x), (None, 0, None)))
every_ball = pytest.mark.parametrize("ball", BALLS, ids=lambda ball: type(ball).__name__)

images = arrays(np.float32, D, elements=st.sampled_from([0.0, 1.0]) | st.floats(0, 1, width=32, allow_subnormal=False))
points = arrays(np.float32, D, elements=st.floats(-4, 5, width=32, allow_subnormal=False))
radii = st.floats(0.015625, 4, width=32, allow_subnormal=False)
ordinary = st.sampled_from([0.0, 1.0]) | st.floats(2**-60, 1, width=32)  # XLA takes numbers below 1e-38 for 0


def size(ball, delta):
    """The norm in float64."""
    delta = np.asarray(delta, np.float64).ravel()
    order = {"linf": np.inf, "l2": 2, "l1": 1, "l0": 0}[ball.registered[1]]
    return np.linalg.norm(delta, order)


def draw(shape, seed=0):
    """An image with many entries on the faces of the box, and a point far outside of ball and box."""
    rng = np.random.default_rng(seed)
    x = rng.random(shape, np.float32)
    x = np.where(rng.random(shape) < 0.3, np.round(x), x)
    return x, x + rng.normal(size=shape).astype(np.float32)


def exact_l2(x, z, eps):
    """The multiplier of the constraint by root finding, in float64."""
    x, z = x.astype(np.float64), z.astype(np.float64)

    def at(multiplier):
        return np.clip((z + multiplier * x) / (1 + multiplier), 0, 1)

    if np.linalg.norm(at(0) - x) <= eps:
        return at(0)
    return at(optimize.brentq(lambda m: np.linalg.norm(at(m) - x) - eps, 0, 1e6, xtol=1e-14, rtol=1e-14))


def exact_l1(x, z, eps):
    """The threshold from the sorted breakpoints of the piecewise linear size, in float64."""
    x, z = x.astype(np.float64), z.astype(np.float64)

    def at(t):
        return np.clip(x + np.sign(z - x) * np.maximum(np.abs(z - x) - t, 0), 0, 1)

    def excess(t):
        return np.sum(np.abs(at(t) - x)) - eps

    if excess(0) <= 0:
        return at(0)
    room = np.where(z > x, 1 - x, x)
    breakpoints = np.unique(np.concatenate([[0], np.abs(z - x), np.maximum(np.abs(z - x) - room, 0)]))
    last = np.max(np.flatnonzero([excess(t) > 0 for t in breakpoints]))
    low, high = breakpoints[last : last + 2]
    return at(low + (high - low) * excess(low) / (excess(low) - excess(high)))


@pytest.mark.parametrize("kind, exact", [(L2, exact_l2), (L1, exact_l1)])
def test_projection_is_the_nearest_point_of_ball_and_box(kind, exact):
    @settings(max_examples=150, deadline=None)
    @given(images, points, radii)
    def check(x, z, eps):
        np.testing.assert_allclose(project(kind(eps), x, z), exact(x, z, eps), atol=2e-6)

    check()


@pytest.mark.parametrize("ball", [L2(3.0), L1(40.0)], ids=["L2", "L1"])
def test_no_point_of_ball_and_box_lies_ahead_of_the_projection(ball):
    """<z - p, q - p> <= 0 for all feasible q: what makes p the projection, free of any solver."""
    x, z = draw(784)
    p = np.asarray(project(ball, x, z), np.float64)
    q = samples(ball, jax.random.split(jax.random.key(0), 200), x)
    ahead = (np.asarray(q, np.float64) - p) @ (z - p)
    assert np.max(ahead) < 0
    assert size(ball, p - x) == pytest.approx(ball.eps, rel=TOLERANCE)


@pytest.mark.parametrize("ball, ball_alone", [(L2(0.5), [1.36, 0.69]), (L1(0.5), [1.4, 0.5])], ids=["L2", "L1"])
def test_what_the_box_takes_from_one_entry_the_others_may_use(ball, ball_alone):
    """Ball first and box second would stop at the clipped `ball_alone`, which is farther from z."""
    x, z = np.array([0.9, 0.5], np.float32), np.array([1.9, 0.9], np.float32)
    ours = project(ball, x, z)
    np.testing.assert_allclose(ours, [1.0, 0.9], atol=1e-6)
    assert np.linalg.norm(z - ours) < np.linalg.norm(z - np.clip(ball_alone, 0, 1)) - 0.02


@settings(max_examples=40, deadline=None)
@given(
    arrays(np.float32, 6, elements=st.floats(0, 1, width=32, allow_subnormal=False)),
    arrays(np.float32, 6, elements=st.floats(-2, 3, width=32, allow_subnormal=False)),
    st.integers(0, 6),
)
def test_l0_projection_is_the_best_of_all_subsets(x, z, eps):
    inside = np.clip(z, 0, 1)
    choices = itertools.combinations(range(6), eps)
    subsets = [np.isin(np.arange(6), chosen) for chosen in choices]
    best = min(np.linalg.norm(z.astype(np.float64) - np.where(kept, inside, x)) for kept in subsets)
    ours = project(L0(float(eps)), x, z)
    assert size(L0(eps), ours - x) <= eps
    assert np.linalg.norm(z.astype(np.float64) - ours) == pytest.approx(best, abs=1e-6)


def test_l0_keeps_the_first_of_equal_entries_and_counts_what_the_box_leaves():
    x = np.full(5, 0.5, np.float32)
    np.testing.assert_array_equal(project(L0(2.0), x, x + np.float32(0.25)), [0.75, 0.75, 0.5, 0.5, 0.5])
    z = np.array([9.0, 0.9, 0.5, 0.5, 0.5], np.float32)
    np.testing.assert_array_equal(
        project(L0(1.0), np.array([1.0, 0.5, 0.5, 0.5, 0.5], np.float32), z),
        np.array([1.0, 0.9, 0.5, 0.5, 0.5], np.float32),
    )


def test_l0_rounds_eps_down():
    x, z = draw(20)
    np.testing.assert_array_equal(project(L0(3.7), x, z), project(L0(3.0), x, z))
    assert int(L0(3.7).size(samples(L0(3.7), jax.random.split(jax.random.key(0), 1), x)[0] - x)) == 3


@settings(max_examples=200, deadline=None)
@given(arrays(np.float32, D, elements=ordinary), points, ordinary)
def test_linf_projection_is_a_clip_whose_float32_size_never_exceeds_eps(x, z, eps):
    ours = np.asarray(project(Linf(eps), x, z))
    assert np.max(np.abs(ours - x)) <= np.float32(eps)
    x, z = x.astype(np.float64), z.astype(np.float64)
    np.testing.assert_allclose(ours, np.clip(np.clip(z, x - eps, x + eps), 0, 1), atol=2**-23)


@every_ball
@pytest.mark.parametrize("shape", [(1,), (28, 28, 1), (224, 224, 3)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_projection_is_inside_the_box_exactly_and_the_ball_to_one_in_a_million(ball, shape, scale):
    x, z = draw(shape)
    z = x + np.float32(scale) * (z - x)
    x_adv = np.asarray(project(ball, x, z))
    assert x_adv.dtype == np.float32 and x_adv.min() >= 0 and x_adv.max() <= 1
    assert size(ball, x_adv.astype(np.float64) - x) <= ball.eps * (1 + TOLERANCE)
    assert ball.size(x_adv - x) <= ball.eps * (1 + TOLERANCE)


@pytest.mark.parametrize("ball", [L2(0.5), L1(12.0)], ids=["L2", "L1"])
@pytest.mark.parametrize("shape", [(784,), (224, 224, 3)])
def test_projection_of_a_far_point_uses_the_whole_radius(ball, shape):
    x, z = draw(shape)
    assert size(ball, np.asarray(project(ball, x, z), np.float64) - x) == pytest.approx(ball.eps, rel=5e-6)


@every_ball
def test_radius_zero_is_the_identity_bit_by_bit(ball):
    x, z = draw((28, 28, 1))
    still = ball.replace(eps=0.0)
    np.testing.assert_array_equal(project(still, x, z), x)
    np.testing.assert_array_equal(project(still, x, x + np.float32(1e-25)), x)
    np.testing.assert_array_equal(samples(still, jax.random.split(jax.random.key(1), 1), x)[0], x)


@every_ball
def test_feasible_points_do_not_move_bit_by_bit(ball):
    x, z = draw((28, 28, 1))
    once = project(ball, x, z)
    np.testing.assert_array_equal(project(ball, x, once), once)
    np.testing.assert_array_equal(project(ball, x, x), x)
    near = x.copy()
    near[3, 3:6] = np.clip(x[3, 3:6], 0.05, 0.95)
    assert ball.size(near - x) <= ball.eps and np.any(near != x)
    np.testing.assert_array_equal(project(ball, x, near), near)


@every_ball
def test_a_batch_and_a_curve_of_radii_equal_one_at_a_time(ball):
    pairs = [draw(30, seed) for seed in range(5)]
    x, z = (np.stack(part) for part in zip(*pairs, strict=True))
    radii = ball.eps * jnp.array([0.0, 0.5, 1.0, 2.0, 4.0])
    together = jax.vmap(lambda eps, x, z: ball.replace(eps=eps).project(x, z))(radii, x, z)
    for i, eps in enumerate(radii):
        np.testing.assert_allclose(together[i], project(ball.replace(eps=float(eps)), x[i], z[i]), atol=3e-7)


@every_ball
def test_a_new_radius_compiles_nothing(ball):
    x, z = draw(11)
    compiled = jax.jit(lambda ball, x, z: ball.project(x, z))
    for eps in (0.1, 2.0, 0.0):
        compiled(ball.replace(eps=eps), x, z)
    assert compiled._cache_size() == 1


@every_ball
def test_samples_lie_inside_and_differ(ball):
    x, _ = draw((6, 6, 1))
    found = np.asarray(samples(ball, jax.random.split(jax.random.key(2), 50), x))
    assert found.min() >= 0 and found.max() <= 1
    assert max(size(ball, x_adv.astype(np.float64) - x) for x_adv in found) <= ball.eps * (1 + TOLERANCE)
    assert len(np.unique(found.reshape(50, -1), axis=0)) == 50


@pytest.mark.parametrize("ball", [L2(0.2), L1(0.2)], ids=["L2", "L1"])
def test_samples_are_uniform_in_the_ball(ball):
    """Where the box is far away, (size / eps)^D is uniform on [0, 1], and every entry is symmetric."""
    x = np.full(4, 0.5, np.float32)
    delta = np.asarray(samples(ball, jax.random.split(jax.random.key(3), 2000), x)) - x
    volumes = np.array([(size(ball, d) / ball.eps) ** 4 for d in delta])
    assert stats.kstest(volumes, "uniform").pvalue > 0.01
    assert stats.kstest(delta[:, 0], -delta[:, 1]).pvalue > 0.01


def test_linf_samples_are_uniform_in_every_entry():
    x = np.full(3, 0.5, np.float32)
    delta = np.asarray(samples(Linf(0.1), jax.random.split(jax.random.key(4), 2000), x)) - x
    assert stats.kstest(delta.ravel(), stats.uniform(-0.1, 0.2).cdf).pvalue > 0.01


def test_l0_samples_redraw_exactly_eps_entries_chosen_evenly():
    x = np.full(6, 0.5, np.float32)
    changed = np.asarray(samples(L0(2.0), jax.random.split(jax.random.key(5), 3000), x)) != x
    assert set(changed.sum(axis=1)) == {2}
    assert stats.chisquare(changed.sum(axis=0)).pvalue > 0.01


@pytest.mark.parametrize("ball, dual", [(Linf(1.0), 1), (L2(1.0), 2), (L1(1.0), np.inf)], ids=["Linf", "L2", "L1"])
def test_the_steepest_direction_reaches_the_dual_norm(ball, dual):
    g = np.random.default_rng(0).normal(size=40).astype(np.float32)
    d = np.asarray(ball.steepest(g), np.float64)
    assert size(ball, d) == pytest.approx(1, rel=1e-6)
    assert d @ g == pytest.approx(np.linalg.norm(g.astype(np.float64), dual), rel=1e-6)


def test_the_steepest_l1_direction_shares_the_step_among_one_entry_in_a_hundred():
    g = np.arange(-200, 200, dtype=np.float32)
    d = np.asarray(L1(1.0).steepest(g))
    np.testing.assert_array_equal(np.flatnonzero(d), [0, 1, 2, 399])
    np.testing.assert_array_equal(d[[0, 1, 2, 399]], [-0.25, -0.25, -0.25, 0.25])
    assert np.count_nonzero(L1(1.0).steepest(np.ones(400, np.float32))) == 4


@every_ball
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e30])
def test_directions_of_vanishing_and_huge_gradients_are_finite(ball, scale):
    g = np.float32(scale) * np.array([0.5, -1.0, 0.0, 1.0], np.float32)
    d = np.asarray(ball.steepest(g))
    assert np.isfinite(d).all() and np.any(d != 0) == (scale > 0)
    np.testing.assert_array_equal(np.asarray(ball.steepest(jnp.zeros(3))), 0)


@every_ball
def test_a_step_along_the_gradient_climbs_and_stays_inside(ball):
    x, z = draw(50)
    z, g = np.asarray(project(ball, x, z)), np.random.default_rng(7).normal(size=50).astype(np.float32)
    start = project(ball.replace(eps=ball.eps / 2 if ball.eps < 3 else 1.0), x, z)
    after = np.asarray(along(ball, x, start, g, 0.5))
    assert (after.astype(np.float64) - start) @ g > 0
    assert size(ball, after.astype(np.float64) - x) <= ball.eps * (1 + TOLERANCE)


@pytest.mark.parametrize(
    "ball, fraction, g, after",
    [
        (Linf(0.2), 0.25, [2.0, -3.0, 0.0, 1e-3], [0.55, 0.45, 0.5, 0.55]),
        (L2(0.5), 0.25, [3.0, 0.0, -4.0, 0.0], [0.575, 0.5, 0.4, 0.5]),
        (L1(0.4), 0.25, [1.0, 0.0, -4.0, 3.0], [0.5, 0.5, 0.4, 0.5]),
        (L0(2.0), 0.01, [1.0, -2.0, 0.0, 1.0], [0.6, 0.3, 0.5, 0.5]),
    ],
    ids=["Linf", "L2", "L1", "L0"],
)
def test_a_step_is_a_fraction_of_the_radius_in_the_steepest_direction(ball, fraction, g, after):
    """L0, whose radius is a count: ten times the fraction for the average entry, then the best two."""
    x = np.full(4, 0.5, np.float32)
    np.testing.assert_allclose(along(ball, x, x, np.array(g, np.float32), fraction), after, atol=1e-6)


def test_an_l1_step_passes_over_entries_that_the_box_blocks():
    x = np.array([1.0, 0.0, 0.5], np.float32)
    after = along(L1(0.25), x, x, np.array([3.0, -2.0, 1.0], np.float32), 1.0)
    np.testing.assert_array_equal(after, [1.0, 0.0, 0.75])


def test_an_l0_step_goes_where_gradient_times_room_is_largest():
    """The best entries of a linear model: g (1 - x) at those that rise, -g x at those that fall."""
    x, _ = draw(60, seed=3)
    g = np.random.default_rng(3).normal(size=60).astype(np.float32)
    after = np.asarray(along(L0(4.0), x, x, g, 1000.0))
    best = np.argsort(-np.where(g > 0, g * (1 - x), -g * x))[:4]
    np.testing.assert_array_equal(np.sort(best), np.flatnonzero(after != x))
    np.testing.assert_array_equal(after[best], g[best] > 0)


@every_ball
@pytest.mark.parametrize("eps", [-0.1, -1, float("nan"), float("inf"), np.float32(-1), np.float64("nan")])
def test_a_radius_that_is_negative_or_not_finite_is_refused(ball, eps):
    name = ball.registered[1]
    with pytest.raises(UserError, match=f"{name}: eps = .* must be a finite number of at least 0"):
        type(ball)(eps)


@every_ball
def test_balls_are_pytrees_whose_leaf_may_be_anything(ball):
    assert jax.tree.leaves(ball) == [ball.eps]
    assert jax.tree.map(lambda leaf: None, ball).eps is None
    assert jax.eval_shape(lambda b: b.eps, ball).shape == ()


def test_no_two_balls_have_the_same_tree_structure():
    """Else `jit`, which looks programs up by structure, now and then runs that of another norm."""
    for a, b in itertools.combinations(BALLS, 2):
        assert jax.tree.structure(a) != jax.tree.structure(b)
    assert jax.tree.structure(L2(0.5)) == jax.tree.structure(L2(0.7))


def test_the_four_balls_are_registered_by_their_norm():
    assert {"linf", "l2", "l1", "l0"} <= set(discover("budget"))
    assert build("budget", "linf(8/255)") == Linf(8 / 255)
    with pytest.raises(UserError, match="eps = -0.5"):
        build("budget", "l2(-0.5)")
