"""Square: its schedule, its start, the shape of its proposals, its count of queries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.attacks.evasion.square import Square
from robustbench_jax.ops import bucket
from robustbench_jax.ops.drive import drive
from robustbench_jax.registry import build
from robustbench_jax.types import Classifier, UserError
from tests.oracles import affine

SHAPE = (12, 12, 3)


def hopeless(shape=SHAPE) -> Classifier:
    """Scores that move a little with the image and never change the verdict."""
    w = 1e-4 * jax.random.normal(jax.random.key(0), (int(np.prod(shape)), 3))
    return Classifier(affine, {"w": w, "b": jnp.array([1.0, 0.0, 0.0])})


def path(budget: str, steps: int, attack="square(queries=500)", shape=SHAPE, value=0.5) -> list[np.ndarray]:
    arguments = jax.random.key(0), build("attack", attack), hopeless(shape), build("budget", budget)
    x = jnp.full((1, *shape), value)
    lanes, state = bucket.start(*arguments, x, jnp.zeros(1, jnp.int32), jnp.arange(1), jnp.zeros(1, jnp.int32))
    states = [np.asarray(state.x_adv[0])]
    for _ in range(steps):
        state, _ = bucket.step(*arguments, lanes, state)
        states.append(np.asarray(state.x_adv[0]))
    return states


def test_the_area_halves_where_the_paper_says_for_10_000_queries():
    areas = [float(Square()._area(jnp.asarray(q))) for q in (0, 10, 11, 50, 51, 200, 201, 500, 501, 4001, 4999)]
    assert areas == pytest.approx([0.8 / d for d in (1, 1, 2, 2, 4, 4, 8, 8, 16, 128, 128)])


def test_rescaled_the_whole_schedule_fits_the_queries():
    rescaled = Square(queries=100, rescale=True)
    assert float(rescaled._area(jnp.asarray(99))) == pytest.approx(0.8 / 512)
    assert float(Square(queries=100)._area(jnp.asarray(99))) == pytest.approx(0.8 / 4)


def test_in_linf_it_starts_with_vertical_stripes_of_both_signs():
    delta = path("linf(0.1)", 0)[0] - 0.5
    np.testing.assert_allclose(np.abs(delta), 0.1, rtol=1e-5)
    np.testing.assert_array_equal(delta, np.broadcast_to(delta[:1], SHAPE))
    assert len(np.unique(delta[0], axis=0)) > 1


def test_in_linf_every_entry_stays_at_a_corner_and_a_step_changes_one_square():
    states = path("linf(0.1)", 80)
    for before, after in zip(states, states[1:], strict=False):
        np.testing.assert_allclose(np.abs(after - 0.5), 0.1, rtol=1e-5)
        changed = np.any(before != after, axis=-1)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        if len(rows):  # no more than a side of the first squares, and never the last row and column alone
            side = round(np.sqrt(0.8 * 144))
            assert np.ptp(rows) < side and np.ptp(columns) < side


@pytest.mark.parametrize("budget, p", [("l2(1)", 2), ("l1(4)", 1)])
def test_in_l2_and_l1_the_perturbation_keeps_the_whole_radius(budget, p):
    eps = build("budget", budget).eps
    for state in path(budget, 60)[::10]:
        assert np.linalg.norm((state - 0.5).ravel(), p) == pytest.approx(eps, rel=1e-3)


@pytest.mark.parametrize("shape", [(12, 12, 1), (9, 14, 3), (5, 5, 1), (3, 8, 2)])
@pytest.mark.parametrize("budget", ["linf(0.1)", "l2(0.5)", "l1(2)"])
def test_images_of_any_size_stay_in_ball_and_box(shape, budget):
    budget_ = build("budget", budget)
    for state in path(budget, 20, shape=shape, value=0.02)[::5]:
        assert np.isfinite(state).all() and state.min() >= 0 and state.max() <= 1
        assert float(budget_.size(jnp.asarray(state - np.float32(0.02)))) <= budget_.eps * (1 + 1e-5)


@pytest.mark.parametrize("budget", ["linf(0.1)", "l2(1)"])
def test_it_never_asks_more_often_than_its_queries(budget):
    x, y = np.full((3, *SHAPE), 100, np.uint8), np.zeros(3, np.int64)
    found = drive(jax.random.key(0), Square(queries=37), hopeless(), build("budget", budget), x, y)
    assert not found.success.any() and (found.forwards <= 37).all() and not found.gradients.any()
    if budget == "l2(1)":  # in Linf a proposal that changes nothing is not asked
        assert (found.forwards == 37).all()


def test_restarts_have_queries_of_their_own():
    x, y = np.full((2, *SHAPE), 100, np.uint8), np.zeros(2, np.int64)
    found = drive(jax.random.key(0), Square(queries=10, restarts=3), hopeless(), build("budget", "l2(1)"), x, y)
    assert (found.forwards == 30).all()


def test_the_margin_only_falls(small_cnn):
    model, data = small_cnn
    arguments = jax.random.key(0), Square(queries=50), model, build("budget", "linf(0.01)")
    x, y = jnp.asarray(data.x[:8]), jnp.asarray(data.y[:8])
    lanes, state = bucket.start(*arguments, x, y, jnp.arange(8), jnp.zeros(8, jnp.int32))
    losses = [state.loss]
    for _ in range(30):
        state, _ = bucket.step(*arguments, lanes, state)
        losses.append(state.loss)
    assert np.all(np.diff(np.stack(losses), axis=0) >= 0) and np.any(losses[-1] > losses[0])


def test_vectors_are_refused():
    vector = Classifier(affine, {"w": jnp.ones((4, 2)), "b": jnp.zeros(2)})
    with pytest.raises(UserError, match=r"square needs images \[H, W, C\]; got \[4\]"):
        drive(
            jax.random.key(0),
            Square(),
            vector,
            build("budget", "linf(0.1)"),
            np.zeros((1, 4), np.float32),
            np.zeros(1, np.int64),
        )


@pytest.mark.parametrize("text", ["square(queries=0)", "square(restarts=0)", "square(area=0.0)", "square(area=1.5)"])
def test_wrong_arguments_are_named(text):
    with pytest.raises(UserError, match=f"square: {text[7:].split('=')[0]} = "):
        build("attack", text)
