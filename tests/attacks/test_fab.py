"""FAB: the exact distance on a linear model, with and without the box, and what `first` changes."""

import jax
import numpy as np
import pytest

from robustbench_jax.ops.drive import drive
from robustbench_jax.registry import build
from robustbench_jax.types import UserError

FABS = ["fab(steps=20)", "fab_targeted(steps=20)", "targeted(fab(steps=20))"]


def attacked(text: str, budget: str, oracle, model=None):
    attack, budget = build("attack", text), build("budget", budget)
    return drive(jax.random.key(0), attack, model or oracle.model, budget, oracle.data.x, oracle.data.y)


@pytest.mark.parametrize("attack", FABS)
@pytest.mark.parametrize("ball", ["linf", "l2"])
def test_it_finds_the_exact_distance_to_a_linear_boundary(attack, ball, linear):
    found = attacked(attack, f"{ball}(10)", linear)
    distance = linear.distance(ball)
    inside = distance < (0.25 if ball == "linf" else 0.6)  # where the box is not in the way
    assert found.success.all() and inside.sum() > 20
    assert np.all(found.size[inside] >= distance[inside] * (1 - 1e-4))
    np.testing.assert_allclose(found.size[inside], distance[inside], rtol=0.02)


def test_in_l1_the_box_makes_the_nearest_point_use_several_entries(linear):
    """One entry has room for half of its range; the exact distance fills entries by weight until the score turns."""
    found = attacked("fab(steps=40)", "l1(30)", linear)
    x = linear.data.x.reshape(len(linear.data), -1) / 255
    order = np.argsort(-np.abs(linear.weights))
    for i in range(len(x)):
        sign = np.sign(linear.weights) * (1 if linear.data.y[i] else -1)
        room = np.where(sign > 0, x[i], 1 - x[i])[order]
        gain = np.cumsum(room * np.abs(linear.weights[order]))
        last = np.searchsorted(gain, linear.margin[i])
        before = gain[last - 1] if last else 0.0
        exact = room[:last].sum() + (linear.margin[i] - before) / np.abs(linear.weights[order[last]])
        assert found.size[i] == pytest.approx(exact, rel=0.03)


def test_success_is_counted_within_the_radius_only(linear):
    eps = float(np.median(linear.distance("linf")))
    found = attacked("fab_targeted(steps=20)", f"linf({eps})", linear)
    np.testing.assert_array_equal(found.success, linear.distance("linf") < eps)


def test_looking_for_the_first_success_ends_there_with_the_same_verdict(linear):
    eps = float(np.median(linear.distance("linf")))
    whole = attacked("fab_targeted(steps=20)", f"linf({eps})", linear)
    first = attacked("fab_targeted(steps=20, first=True)", f"linf({eps})", linear)
    np.testing.assert_array_equal(first.success, whole.success)
    assert first.forwards[first.success].max() < whole.forwards[first.success].min()


def test_a_step_is_two_forward_passes_and_one_backward_pass_or_one_for_each_wrong_class(linear):
    aimed, all_classes = (attacked(f"{name}(steps=5)", "linf(0.01)", linear) for name in ("fab_targeted", "fab"))
    hopeless = linear.distance("linf") > 0.05
    assert (aimed.forwards[hopeless] == 5 * 2 + 9).all() and (aimed.gradients[hopeless] == 5).all()
    assert (all_classes.forwards[hopeless] == 5 * 2).all() and (all_classes.gradients[hopeless] == 5).all()


def test_a_model_whose_gradient_is_zero_survives_without_nan(linear):
    flat = linear.model.replace(params={k: 0 * v for k, v in linear.model.params.items()})
    found = drive(
        jax.random.key(0),
        build("attack", "fab_targeted(steps=5)"),
        flat,
        build("budget", "linf(0.1)"),
        linear.data.x[:4],
        np.zeros(4, np.int64),
    )
    assert not found.success.any() and np.isfinite(found.x_adv).all()
    np.testing.assert_array_equal(found.vanished, found.gradients)


@pytest.mark.parametrize("text", ["fab(steps=0)", "fab_targeted(restarts=0)", "fab_targeted(targets=0)", "fab(eta=0)"])
def test_wrong_arguments_are_named(text):
    with pytest.raises(UserError, match="must be greater than 0"):
        build("attack", text)
