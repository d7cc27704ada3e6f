"""The driver: what it does beyond the laws, which hold for every attack (tests/test_laws.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.ops import drive, runtime
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.judge import judge, predict
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import build
from robustbench_jax.types import Classifier, EvasionAttack, State, UserError, record
from tests import oracles


@record
class Restarts(EvasionAttack):
    """Five items; from item 2 on, each reaches (7 + item) / 255 in its third step."""

    steps: int = 6
    items = 5
    called = "restarts"
    access = "gradients"

    def init(self, key, problem):
        return State.at(problem.x)

    def step(self, key, problem, state):
        good = (problem.item >= 2) & (state.t >= 2)
        x_adv = jnp.where(good, (7 + problem.item) / 255, problem.x)
        return state.move(x_adv, done=problem.adversarial(problem.model(state.x_adv)), gradients=0)


def dark(params, x):
    """Class 0 for images that are all zero, class 1 for any other."""
    return jnp.array([0.5, 0.0]) + jnp.array([0.0, 1.0]) * (jnp.max(x) > 0) * params


@pytest.fixture
def zeros():
    return Classifier(dark, np.float32(1.0)), np.zeros((20, 2, 2, 1), np.uint8), np.zeros(20, np.int32)


def test_the_lowest_successful_item_wins_and_higher_ones_cost_nothing(zeros):
    model, x, y = zeros
    found = drive.drive(
        jax.random.key(0), Restarts(), model, build("budget", "linf(1)"), x, y, runtime=Runtime(width=8)
    )
    assert found.success.all()
    np.testing.assert_allclose(found.x_adv, 9 / 255, atol=1e-7)  # item 2 of 5
    assert (found.forwards == 6 + 6 + 4).all()  # items 0 and 1 run out, item 2 is right at its fourth look


def test_the_loop_form_of_accelerators_gives_the_same_results(monkeypatch, linear):
    eps = float(np.median(linear.distance("linf")))
    arguments = (
        build("attack", "pgd(steps=7, restarts=2)"),
        linear.model,
        build("budget", f"linf({eps})"),
        linear.data.x,
        linear.data.y,
    )
    host = drive.drive(jax.random.key(0), *arguments)
    monkeypatch.setattr(runtime, "on_cpu", lambda: False)
    looped = drive.drive(jax.random.key(0), *arguments, runtime=Runtime(width=16, chunk=3))
    for name in ("success", "forwards", "gradients"):
        np.testing.assert_array_equal(getattr(looped, name), getattr(host, name))
    np.testing.assert_allclose(looped.x_adv, host.x_adv, atol=1e-6)


def test_a_cascade_attacks_survivors_only_and_says_which_stage_broke_what(linear):
    eps = float(np.median(linear.distance("linf")))
    weak = "uniform_noise"
    found = drive.drive(
        jax.random.key(0),
        build("attack", f"cascade([{weak}, fgsm, pgd])"),
        linear.model,
        build("budget", f"linf({eps * 1.01})"),
        linear.data.x,
        linear.data.y,
    )
    breakable = linear.distance("linf") < eps
    assert set(found.broken_by[breakable]) <= {0, 1} and (found.broken_by[~found.success] == -1).all()
    assert (found.gradients[found.broken_by == 0] == 0).all() and (found.gradients[found.broken_by == 1] == 1).all()


@pytest.mark.parametrize(
    "rows, runtime",
    [([5], Runtime(width=64)), ([3, 1, 5, 0, 2, 6, 4], Runtime(width=8, devices=1)), (range(64), Runtime(width=64))],
    ids=["one", "seven in disorder on one device", "all on two"],
)
def test_neighbours_order_width_and_devices_do_not_matter_to_convolutions(rows, runtime):
    model, data = oracles.small_cnn()
    attack, budget = build("attack", "pgd(steps=10, restarts=2)"), build("budget", "linf(0.05)")
    rows = np.array(rows)
    whole = drive.drive(jax.random.key(0), attack, model, budget, data.x, data.y, runtime=Runtime(width=16))
    part = drive.drive(jax.random.key(0), attack, model, budget, data.x[rows], data.y[rows], ids=rows, runtime=runtime)
    for name in ("success", "forwards", "gradients"):
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[rows], err_msg=name)
    np.testing.assert_allclose(part.x_adv, whole.x_adv[rows], atol=1e-6)


def test_progress_never_falls_and_ends_at_the_number_of_examples():
    model, data = oracles.small_cnn()
    seen = []
    drive.drive(
        jax.random.key(0),
        build("attack", "cascade([fgsm, pgd(steps=5)])"),
        model,
        build("budget", "linf(0.02)"),
        data.x,
        data.y,
        report=seen.append,
        runtime=Runtime(width=8),
    )
    assert seen[-1] == len(data) and seen == sorted(seen) and len(seen) > 2


def test_no_examples_are_no_error():
    model, data = oracles.small_cnn()
    found = drive.drive(
        jax.random.key(0), build("attack", "pgd"), model, build("budget", "linf(0.02)"), data.x[:0], data.y[:0]
    )
    assert found.success.shape == (0,)


def test_the_judge_projects_what_an_attack_proposes():
    model, data = oracles.small_cnn()
    far = np.ones_like(as_unit(data.x))
    judged = judge(model, build("budget", "linf(0.1)"), "untargeted", data.x, far, data.y, data.y)
    assert np.max(np.abs(judged.x_adv - as_unit(data.x))) <= 0.1 + 1e-7


def test_attack_batch_gives_the_first_restart_of_the_attack(linear):
    x, y, ids = as_unit(linear.data.x), linear.data.y, np.arange(len(linear.data))
    eps = float(np.max(linear.distance("linf")))
    x_adv = drive.attack_batch(
        jax.random.key(0), build("attack", "pgd(steps=5)"), linear.model, build("budget", f"linf({eps})"), x, y, ids
    )
    logits = jax.vmap(linear.model)(x_adv)
    assert (np.argmax(logits, -1) != y)[linear.distance("linf") < 0.9 * eps].all()


@pytest.mark.parametrize("fields", [{"width": 0}, {"chunk": -1}, {"devices": 0}, {"width": 2.5}])
def test_a_runtime_that_cannot_be_is_refused(fields):
    with pytest.raises(UserError, match=next(iter(fields))):
        Runtime(**fields)


def test_more_devices_than_there_are_is_refused():
    with pytest.raises(UserError, match="devices = 99: this machine has 2"):
        _ = Runtime(devices=99).mesh


def test_predictions_do_not_depend_on_the_width():
    model, data = oracles.small_cnn()
    whole = predict(model, data.x)
    for width in (8, 16):
        np.testing.assert_allclose(predict(model, data.x, Runtime(width=width)), whole, atol=1e-5)
