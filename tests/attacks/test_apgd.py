"""Auto-PGD: when its step halves, where it starts, what it does with few classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.attacks.evasion.apgd import targeted_dlr
from robustbench_jax.ops import bucket
from robustbench_jax.ops.drive import drive
from robustbench_jax.registry import build
from robustbench_jax.types import Classifier, UserError
from tests.oracles import affine

SHAPE = (4, 4, 1)


def linear_model(classes: int, scale: float = 1.0, seed: int = 0) -> Classifier:
    w = scale * jax.random.normal(jax.random.key(seed), (16, classes))
    return Classifier(affine, {"w": w, "b": jnp.zeros(classes)})


def path(attack: str, budget: str, model: Classifier, steps: int, x=None, y: int = 0) -> list:
    """The states of one image, from the start on."""
    x = jnp.full((1, *SHAPE), 0.5) if x is None else x
    arguments = jax.random.key(0), build("attack", attack), model, build("budget", budget)
    lanes, state = bucket.start(*arguments, x, jnp.array([y]), jnp.arange(1), jnp.arange(1))
    states = [state]
    for _ in range(steps):
        states.append(bucket.step(*arguments, lanes, states[-1])[0])
    return [jax.tree.map(lambda leaf: np.asarray(leaf[0]), s) for s in states]


def halvings(states: list) -> list[int]:
    """After how many moves the step was halved; the first state's step is at twice the radius."""
    return [t - 1 for t in range(1, len(states)) if states[t].step < states[t - 1].step]


def test_where_the_loss_never_rises_the_step_halves_at_every_checkpoint():
    """Of 100 steps these are at 22, 41, 57, 70, 80, 87, 93 and 99, as int() and not ceil() rounds their spacing."""
    flat = Classifier(affine, {"w": jnp.zeros((16, 3)), "b": jnp.array([1.0, 0.0, 0.0])})
    states = path("apgd", "linf(0.1)", flat, 100)
    assert states[0].step == 2 and halvings(states) == [22, 41, 57, 70, 80, 87, 93, 99]


def test_other_numbers_of_steps_scale_the_checkpoints():
    flat = Classifier(affine, {"w": jnp.zeros((16, 3)), "b": jnp.array([1.0, 0.0, 0.0])})
    spacing = np.diff([0, *halvings(path("apgd(steps=20)", "linf(0.1)", flat, 20))])
    assert list(spacing[:6]) == [4, 3, 2, 1, 1, 1]


def test_after_a_halving_it_goes_on_from_the_best_point():
    flat = Classifier(affine, {"w": jnp.zeros((16, 3)), "b": jnp.array([1.0, 0.0, 0.0])})
    states = path("apgd", "linf(0.1)", flat, 23)
    np.testing.assert_array_equal(states[23].x_adv, states[23].x_best)


def test_the_best_loss_is_the_largest_of_the_path():
    model = linear_model(4)
    states = path("apgd(loss='dlr')", "linf(0.05)", model, 30)
    best = [float(s.loss_best) for s in states[1:]]
    assert best == sorted(best)


@pytest.mark.parametrize("budget, p", [("linf(0.1)", np.inf), ("l2(0.3)", 2)])
def test_it_starts_on_the_surface_of_the_ball(budget, p):
    start = path("apgd", budget, linear_model(3), 0)[0].x_adv
    assert np.linalg.norm((start - 0.5).ravel(), p) == pytest.approx(build("budget", budget).eps, rel=1e-5)


@pytest.mark.parametrize("loss", ["ce", "dlr", "dlr_targeted"])
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_few_classes_are_attacked_with_every_loss(loss, classes):
    model = linear_model(classes, seed=classes)
    x = np.random.default_rng(0).integers(90, 160, (8, *SHAPE), np.uint8)
    y = np.asarray(jax.vmap(model)(x / np.float32(255))).argmax(-1)
    attack = build("attack", f"apgd(loss='{loss}', steps=20)")
    found = drive(jax.random.key(0), attack, model, build("budget", "linf(0.3)"), x, y)
    assert found.success.all()
    assert attack.items == (9 if loss == "dlr_targeted" else 1)


def test_targets_that_do_not_exist_cost_no_gradient():
    model = linear_model(3, scale=1e-3)
    model = model.replace(params=model.params | {"b": jnp.array([1.0, 0.0, 0.0])})  # nothing can succeed
    x, y = np.full((2, *SHAPE), 128, np.uint8), np.zeros(2, np.int64)
    attack = build("attack", "apgd(loss='dlr_targeted', steps=10)")
    found = drive(jax.random.key(0), attack, model, build("budget", "linf(0.1)"), x, y)
    assert not found.success.any() and (found.gradients == 2 * 10).all()
    assert (found.forwards == 2 * 10 + 9).all()  # each target is chosen by one look at the clean image


def test_targets_are_the_likeliest_wrong_classes_of_the_clean_image_nearest_first():
    logits = np.array([5.0, 1.0, 4.0, 2.0, 3.0], np.float32)
    model = Classifier(affine, {"w": jnp.zeros((16, 5)), "b": jnp.asarray(logits)})
    attack, budget = build("attack", "apgd(loss='dlr_targeted', targets=3)"), build("budget", "linf(0.1)")
    x, items = np.full((4, *SHAPE), 0.5, np.float32), np.array([0, 1, 2, 3])
    rows = jax.random.key(0), attack, model, budget, x, np.array([0, 0, 0, 0]), np.arange(4), items
    _, states = bucket.start(*rows)
    assert list(np.asarray(states.aim)) == [2, 4, 3, 1]
    rows = *rows[:5], np.array([2, 2, 2, 2]), np.arange(4), items
    assert list(np.asarray(bucket.start(*rows)[1].aim)) == [0, 4, 3, 1]


def test_the_targeted_loss_is_the_difference_over_the_spread_of_the_four_largest():
    logits = jnp.array([3.0, 1.0, 0.5, -1.0, -4.0])
    assert targeted_dlr(2)(logits, 0) == pytest.approx(-(3 - 0.5) / (3 - 0.5 * (0.5 - 1)), rel=1e-6)
    assert targeted_dlr(1)(logits[:3], 0) == pytest.approx(-(3 - 1) / (3 - 0.5), rel=1e-6)
    assert targeted_dlr(1)(logits[:2], 0) == pytest.approx(-2.0)


@pytest.mark.parametrize(
    "text, message",
    [
        ("apgd(loss='dlr_target')", "did you mean 'dlr_targeted'"),
        ("apgd(steps=0)", "steps = 0"),
        ("apgd(targets=-1)", "targets = -1"),
        ("apgd_l1(loss='c')", "apgd_l1: loss = 'c'"),
        ("apgd_l1(iterations=0)", "iterations = 0"),
        ("apgd_l1(restarts=0)", "restarts = 0"),
    ],
)
def test_wrong_arguments_are_named(text, message):
    with pytest.raises(UserError, match=message):
        build("attack", text)


@pytest.mark.slow
def test_in_l1_it_stays_in_ball_and_box_and_beats_pgd():
    model = linear_model(4, seed=3)
    x = np.random.default_rng(1).integers(0, 256, (64, *SHAPE), np.uint8)
    y = np.asarray(jax.vmap(model)(x / np.float32(255))).argmax(-1)
    budget = build("budget", "l1(0.4)")
    ours, plain = (
        drive(jax.random.key(0), build("attack", text), model, budget, x, y)
        for text in ("apgd_l1(loss='dlr')", "pgd(steps=100, loss='margin')")
    )
    delta = ours.x_adv - x / np.float32(255)
    assert np.abs(delta).sum((1, 2, 3)).max() <= 0.4 * (1 + 1e-5)
    assert ours.x_adv.min() >= 0 and ours.x_adv.max() <= 1
    assert ours.success.sum() >= plain.success.sum() and 0 < ours.success.sum() < 64


def test_the_larger_balls_of_apgd_l1_end_in_the_ball_itself():
    """100 iterations and one gradient more for each of the two times that the ball shrinks."""
    attack = build("attack", "apgd_l1")
    assert attack.steps == 102 and build("attack", "apgd_l1(shrink=False)").steps == 100
    model = linear_model(3, scale=1e-3)
    model = model.replace(params=model.params | {"b": jnp.array([1.0, 0.0, 0.0])})
    states = path("apgd_l1", "l1(0.5)", model, 102)
    sizes = [np.abs(s.x_adv - 0.5).sum() for s in states]
    assert max(sizes[:30]) > 1.0 and max(sizes[-40:]) <= 0.5 * (1 + 1e-5)
