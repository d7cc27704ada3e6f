"""The obfuscation report: an undefended linear model passes every check, and each mask fails the one meant for it."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.bench.cells import make_cell
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import build
from robustbench_jax.threats import obfuscation
from robustbench_jax.threats.obfuscation import CHECKS, Trial, lengthened, margins, none_of, surface, versus
from robustbench_jax.types import Classifier, UserError
from tests import oracles
from tests.attacks.test_adaptive import Fickle

KEY = jax.random.key(0)
PGD = "pgd(steps=10, step_size=0.25)"


def trial(model, data, attack=PGD, part=1.0, **options):
    """Of the images that the model gets right, at a part of the median exact radius."""
    eps = part * float(np.median(oracles.linear().distance("linf")))
    made = build("attack", f"checklist({attack})")
    right = np.argmax(jax.vmap(model.keyed(KEY))(data.x / np.float32(255)), -1) == data.y
    x, y, ids = data.x[right], data.y[right], np.flatnonzero(right)
    return Trial(KEY, model, made, build("budget", f"linf({eps})"), x, y, ids, Runtime(width=64))


def verdict(check, *arguments, **options):
    line = CHECKS[check](trial(*arguments, **options))
    return line and line["verdict"]


def quantised(linear):
    return build("model_defence", "bit_depth(4)").protect(None, linear.model, None)


def saturated(linear):
    return Classifier(oracles.affine, {name: 1e6 * value for name, value in linear.model.params.items()})


@dataclass(frozen=True)
class OnTheGrid:
    """The linear oracle whose gradient is there at images of 8 bits alone: one step finds it, steps from a random start
    do not.
    """

    def __call__(self, params, x):
        logits = oracles.affine(params, x)
        on = jnp.all(jnp.abs(255 * x - jnp.round(255 * x)) < 1e-2)
        return jnp.where(on, logits, jax.lax.stop_gradient(logits))


@dataclass(frozen=True)
class Refuge:
    """The linear oracle, but that it is right again wherever a pixel has moved by more than `params["reach"]`: accuracy
    rises with eps. It knows the images that it is asked about.
    """

    def __call__(self, params, x):
        moved = jnp.max(jnp.abs(params["x"] - x), axis=(1, 2, 3))
        right = jax.nn.one_hot(jnp.asarray(params["y"])[jnp.argmin(moved)], 2)
        return jnp.where(jnp.min(moved) > params["reach"], 100.0 * right, oracles.affine(params, x))


@pytest.mark.slow
def test_an_undefended_linear_model_passes_every_check(linear):
    eps = float(np.median(linear.distance("linf")))
    attack, budget = build("attack", f"checklist({PGD}, queries=200, samples=100)"), build("budget", f"linf({eps})")
    outcome = obfuscation.run(KEY, linear.model, linear.data, attack, budget)
    verdicts = {line["check"]: line.get("verdict") for line in outcome.stages}
    assert verdicts.pop("surface") is None and verdicts.pop("transfer") == "not applicable"
    assert set(verdicts.values()) == {"pass"} and len(verdicts) == 8
    assert (outcome.metrics["failed_checks"].value, outcome.metrics["failed_checks"].n) == (0.0, 8)
    np.testing.assert_array_equal(outcome.arrays["robust"], linear.distance("linf") >= eps)
    assert outcome.counts["gradient_evaluations"] > 0 and np.array(outcome.stages[-1]["values"]).shape == (21, 21)


def test_a_model_whose_gradients_vanish_fails_the_checks_of_gradients(linear):
    for model in (saturated(linear), quantised(linear)):
        assert verdict("zero gradients", model, linear.data, part=2) == "fail"
    assert verdict("direction", quantised(linear), linear.data, part=2) == "fail"
    assert verdict("zero gradients", linear.model, linear.data) == "pass"
    assert verdict("direction", linear.model, linear.data) == "pass"


def test_a_model_that_is_robust_in_any_ball_fails_the_unbounded_check(linear):
    still = PGD.replace(")", ", random_start=False)")
    assert verdict("unbounded", saturated(linear), linear.data, still) == "fail"
    assert verdict("unbounded", linear.model, linear.data, still) == "pass"


def test_what_is_made_on_the_twin_of_a_quantised_model_beats_the_white_box_attack(linear):
    assert verdict("transfer", quantised(linear), linear.data, part=4) == "fail"
    assert verdict("transfer", linear.model, linear.data) is None


@pytest.mark.slow
def test_gradients_of_random_sign_are_no_better_than_a_random_direction(linear):
    assert verdict("direction", Classifier(Fickle(), linear.model.params), linear.data) == "fail"


@pytest.mark.slow
def test_one_step_beats_an_attack_whose_gradients_are_hidden_beside_the_images(linear):
    assert verdict("one step", Classifier(OnTheGrid(), linear.model.params), linear.data) == "fail"
    assert verdict("one step", linear.model, linear.data) == "pass"


@pytest.mark.slow
def test_black_box_and_random_search_beat_an_attack_without_gradients(linear):
    still = PGD.replace(")", ", random_start=False)")
    for check in ("black box", "random search"):
        assert verdict(check, quantised(linear), linear.data, still, part=4) == "fail"
        assert verdict(check, linear.model, linear.data, still) == "pass"


def test_an_attack_that_has_not_converged_fails_more_steps(linear):
    assert verdict("more steps", linear.model, linear.data, "pgd(steps=2, step_size=0.2)", part=1.5) == "fail"
    assert verdict("more steps", linear.model, linear.data) == "pass"


def test_accuracy_that_rises_with_eps_fails_the_monotone_check(linear):
    eps = float(np.median(linear.distance("linf")))
    more = {"x": linear.data.x / np.float32(255), "y": linear.data.y, "reach": np.float32(1.2 * eps)}
    assert verdict("monotone", Classifier(Refuge(), linear.model.params | more), linear.data) == "fail"
    assert verdict("monotone", linear.model, linear.data) == "pass"


def test_one_image_of_many_is_chance_and_four_of_a_hundred_are_not():
    hits = np.arange(100)
    assert [none_of(hits < count, "found")["verdict"] for count in (0, 1, 3, 4)] == ["pass", "pass", "pass", "fail"]
    assert none_of(np.zeros(0, bool), "found") is None


def test_a_comparison_fails_only_where_the_other_one_is_better():
    """6 discordant pairs to none: p = 2 / 2^6 = 0.03; 5 to none: 0.06."""
    some = np.arange(20)
    assert versus(some < 6, some < 0)["verdict"] == "fail" and versus(some < 6, some < 0)["measured"]["p"] == 2 / 2**6
    assert versus(some < 5, some < 0)["verdict"] == versus(some < 0, some < 6)["verdict"] == "pass"


def test_steps_are_multiplied_wherever_they_are():
    assert lengthened(build("attack", "eot(bpda(pgd(steps=7)))"), 5).attack.attack.steps == 35
    assert lengthened(build("attack", "fgsm"), 5) is None


def test_the_surface_of_a_linear_model_is_a_plane(linear):
    """Along the gradient the margin rises by eps ||w||_1 from the middle to the edge."""
    it = trial(linear.model, linear.data)
    values = np.array(surface(it))
    start = margins(linear.model, it.x[:1] / np.float32(255), it.y[:1])[0]
    np.testing.assert_allclose(values[10, 10], start, rtol=2e-3)
    rise = float(it.budget.eps) * np.abs(linear.weights).sum()
    np.testing.assert_allclose(values[10], start + np.linspace(-1, 1, 21) * rise, rtol=5e-3, atol=5e-3)
    np.testing.assert_allclose(np.diff(values, 2, axis=0), 0, atol=2e-3)


def test_checklist_is_a_cell_of_its_own_threat_in_balls_with_a_radius():
    cell = make_cell(dataset="fashion_mnist_mini", model="mlp", attack="checklist(pgd)", budget="linf(0.1)")
    assert cell.threat == "obfuscation" and cell.method == "checklist(pgd)"
    with pytest.raises(UserError, match="attack 'checklist' takes no budget 'l0'"):
        make_cell(dataset="fashion_mnist_mini", model="mlp", attack="checklist(pgd)", budget="l0(3)")
    with pytest.raises(UserError, match="checklist: attack = square uses no gradients"):
        build("attack", "checklist(square)")
