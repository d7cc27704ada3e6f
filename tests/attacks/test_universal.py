"""Universal perturbations: one and the same for all images, learnt on others."""

import jax
import numpy as np
import pytest

from robustbench_jax.ops.drive import drive
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import build
from robustbench_jax.types import UserError

NARROW = Runtime(width=16)


def attacked(attack, model, x, y, budget, pool=None):
    made = build("attack", attack) if isinstance(attack, str) else attack
    return drive(jax.random.key(0), made, model, build("budget", budget), x, y, pool=pool, runtime=NARROW)


def test_the_perturbation_of_every_image_is_one_and_the_same(linear):
    data = linear.data
    found = attacked("universal(updates=20)", linear.model, data.x, data.y, "linf(0.1)", (data.x, data.y))
    delta = found.x_adv - as_unit(data.x)
    np.testing.assert_allclose(delta, np.broadcast_to(delta[:1], delta.shape), atol=1e-6)
    np.testing.assert_array_equal(found.forwards, 1)
    assert not found.gradients.any()


def test_on_one_class_of_a_linear_model_the_universal_perturbation_is_the_best_one_there_is(linear):
    """All images of a class share their best perturbation, so universal breaks what FGSM breaks."""
    rows = linear.data.y == 1
    x, y, distance = linear.data.x[rows], linear.data.y[rows], linear.distance("linf")[rows]
    eps = float(np.median(distance)) * 1.001
    found = attacked("universal(updates=30, step_size=0.5)", linear.model, x, y, f"linf({eps})", (x, y))
    np.testing.assert_array_equal(found.success, distance < eps)


@pytest.mark.parametrize("budget", ["rotation_translation(30, 2)", "flow(1.0)", "recolour(0.2)"])
def test_it_learns_in_every_budget_what_its_points_are(budget, tiny):
    model, data = tiny
    found = attacked("universal(updates=5, batch=8)", model, data.x, data.y, budget, (data.x, data.y))
    assert np.any(found.x_adv != as_unit(data.x)) and found.x_adv.min() >= 0 and found.x_adv.max() <= 1


def test_it_has_learnt_before_it_attacks():
    with pytest.raises(UserError, match="learnt nothing before prepare"):
        build("attack", "universal").init(jax.random.key(0), None)


def test_wrapped_it_learns_as_well(tiny):
    model, data = tiny
    found = attacked("targeted(universal(updates=3))", model, data.x, data.y, "linf(0.1)", (data.x, data.y))
    np.testing.assert_array_equal(found.forwards, 1)
    assert np.any(found.x_adv != as_unit(data.x))


def test_no_call_string_says_what_it_learns():
    with pytest.raises(UserError, match="'universal' has no argument 'learnt'"):
        build("attack", "universal(learnt=1)")
