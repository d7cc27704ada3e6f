"""Attacks on a linear model, where the smallest adversarial perturbation is known."""

import jax
import numpy as np
import pytest

from robustbench_jax.registry import build
from robustbench_jax.threats import evasion
from robustbench_jax.types import Classifier, UserError
from tests import oracles


def robust(attack, budget, oracle):
    outcome = evasion.run(
        jax.random.key(0), oracle.model, oracle.data, build("attack", attack), build("budget", budget)
    )
    return outcome.arrays["robust"], outcome


@pytest.mark.parametrize(
    "attack",
    [
        "fgsm",
        "pgd(steps=20)",
        "pgd(steps=20, momentum=0.9)",
        "pgd(random_start=False)",
        "pgd(loss='margin')",
        "targeted(pgd(steps=20), 'most_likely')",
    ],
)
def test_linf_attacks_succeed_exactly_where_the_margin_allows(attack, linear):
    eps = float(np.median(linear.distance("linf")))
    np.testing.assert_array_equal(robust(attack, f"linf({eps})", linear)[0], linear.distance("linf") > eps)


@pytest.mark.parametrize(
    "ball, attack", [("l2", "fgsm"), ("l2", "pgd(steps=20)"), ("l1", "fgsm"), ("l1", "pgd(steps=100)")]
)
def test_l2_and_l1_attacks_succeed_where_the_margin_allows(ball, attack, linear):
    """In L1 one pixel would have to leave the box for large radii, so only small ones are exact."""
    distance = linear.distance(ball)
    eps = float(np.quantile(distance, 0.3))
    found = robust(attack, f"{ball}({eps})", linear)[0]
    assert not found[distance < 0.99 * eps].any() and found[distance > 1.01 * eps].all()


def test_the_size_of_a_success_is_in_the_budgets_norm(linear):
    eps = float(np.median(linear.distance("l2")))
    _, outcome = robust("fgsm", f"l2({eps})", linear)
    sizes = outcome.arrays["size"]
    broken = outcome.arrays["clean_correct"] & ~outcome.arrays["robust"]
    np.testing.assert_allclose(sizes[broken], eps, rtol=1e-4)
    assert np.isnan(sizes[~broken]).all()
    assert outcome.metrics["perturbation_size"].value == pytest.approx(eps, rel=1e-4)


def test_images_that_are_wrong_already_are_not_attacked(linear):
    flipped = 1 - linear.data.y
    data = oracles.Dataset(linear.data.x, flipped, linear.data.classes, "flipped")
    outcome = evasion.run(jax.random.key(0), linear.model, data, build("attack", "pgd"), build("budget", "linf(0.1)"))
    assert outcome.metrics["robust_accuracy"].value == 0 and outcome.metrics["attack_success_rate"].value is None
    assert not outcome.arrays["forwards"].any()


def test_restarts_find_at_least_what_one_start_finds(small_cnn):
    model, data = small_cnn
    oracle = oracles.Linear(model, data, np.array([]), np.array([]))
    one, _ = robust("pgd(steps=3)", "linf(0.02)", oracle)
    five, _ = robust("pgd(steps=3, restarts=5)", "linf(0.02)", oracle)
    assert not (five & ~one).any()


def test_a_targeted_attack_reaches_the_class_it_was_asked_for(small_cnn):
    model, data = small_cnn
    outcome = evasion.run(
        jax.random.key(0),
        model,
        data,
        build("attack", "targeted(pgd(steps=20), 'least_likely')"),
        build("budget", "linf(0.5)"),
    )
    logits = jax.vmap(model)(data.x.astype(np.float32) / 255)
    reached = np.argmax(jax.vmap(model)(outcome.arrays["x_adv"]), -1)
    broken = ~outcome.arrays["robust"]
    assert broken.any()
    np.testing.assert_array_equal(reached[broken], np.argmin(logits, -1)[broken])


@pytest.mark.parametrize(
    "text, message",
    [
        ("pgd(steps=0)", "steps = 0 must be greater than 0"),
        ("pgd(loss='crossentropy')", "did you mean 'cross_entropy'"),
        ("targeted(pgd, 'leastlikely')", "did you mean 'least_likely'"),
        ("cascade([])", "needs a list of attacks"),
        ("targeted(cascade([fgsm]))", "cascade"),
        ("uniform_noise(steps=-1)", "steps = -1"),
    ],
)
def test_wrong_arguments_are_named(text, message):
    with pytest.raises(UserError, match=message):
        build("attack", text)


def test_a_model_that_does_not_fit_the_data_is_refused_before_any_work(linear):
    three = oracles.Dataset(linear.data.x, linear.data.y, ("a", "b", "c"), "three")
    with pytest.raises(UserError, match="the model has 2 classes, three has 3"):
        evasion.check(linear.model, three)
    one = oracles.Dataset(linear.data.x, np.zeros_like(linear.data.y), ("a",), "one")
    with pytest.raises(UserError, match="has 1; if some are absent from these images, name them all in its classes"):
        evasion.check(linear.model, one)
    wide = oracles.Dataset(np.zeros((2, 9, 9, 1), np.uint8), linear.data.y[:2], ("a", "b"), "wide")
    with pytest.raises(UserError, match=r"does not take images of shape \[9, 9, 1\]"):
        evasion.check(linear.model, wide)
    with pytest.raises(UserError, match="logits"):
        evasion.check(Classifier(lambda p, x: x.sum(), ()), linear.data)
