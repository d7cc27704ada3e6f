"""Health flags: models and attacks that deserve each of them, and honest ones that get none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.ops.drive import Attacked, Stage
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import build
from robustbench_jax.threats import evasion, health
from robustbench_jax.types import Classifier, Dataset, UserError
from tests.oracles import affine

RNG = np.random.default_rng(0)
X = RNG.integers(60, 190, (24, 5, 5, 1), np.uint8)
W = RNG.normal(size=(25, 3)).astype(np.float32)


def linear(scale: float = 1.0) -> Classifier:
    return Classifier(affine, {"w": scale * W, "b": jnp.zeros(3)})


def labelled(model) -> Dataset:
    logits = jax.vmap(model.keyed(jax.random.key(0)))(X.astype(np.float32) / 255)
    return Dataset(X, np.asarray(logits).argmax(-1).astype(np.int32), ("a", "b", "c"), "x")


def flags(model, attack="pgd(steps=5)", budget="linf(0.05)", data=None) -> list[str]:
    data = data or labelled(model)
    found = evasion.run(jax.random.key(0), model, data, build("attack", attack), build("budget", budget))
    return [flag.split(":")[0] for flag in found.flags]


class Noisy:
    """Logits with noise from the key."""

    stochastic = True

    def __call__(self, params, x, key):
        return affine(params, x) + 0.5 * jax.random.normal(key, (3,))

    def __eq__(self, other):
        return type(other) is Noisy

    def __hash__(self):
        return hash(Noisy)


def quantised(params, x):
    return affine(params, jnp.round(8 * x) / 8)


def probabilities(params, x):
    return jax.nn.softmax(affine(params, x))


def constant(params, x):
    return params["b"] + 0 * x.sum()


def test_an_honest_model_has_no_flag():
    assert flags(linear()) == []


def test_a_randomised_model_is_flagged():
    model = Classifier(Noisy(), linear().params)
    assert "randomised" in flags(model)


def test_a_model_whose_gradient_vanishes_is_flagged_along_the_path():
    """Rounding has gradient zero everywhere."""
    assert "zero gradients" in flags(Classifier(quantised, linear().params))


def test_saturated_cross_entropy_is_flagged_as_zero_gradients():
    assert "zero gradients" in flags(linear(scale=1e4), "pgd(steps=5)", "linf(0.0001)")


def test_a_constant_model_and_one_that_returns_probabilities_are_flagged():
    model = Classifier(constant, {"b": jnp.array([1.0, 0.0, 0.0])})
    assert "constant" in flags(model, data=Dataset(X, np.zeros(len(X), np.int32), ("a", "b", "c"), "x"))
    assert "probabilities" in flags(Classifier(probabilities, linear().params))


def test_nan_logits_are_an_error_and_not_robustness():
    model = Classifier(affine, {"w": W * np.float32(np.nan), "b": jnp.zeros(3)})
    with pytest.raises(UserError, match="NaN"):
        flags(model, data=Dataset(X, np.zeros(len(X), np.int32), ("a", "b", "c"), "x"))


def test_black_box_stages_that_break_what_white_box_ones_left_are_flagged():
    def attacked(late: int) -> Attacked:
        stages = (Stage("apgd_ce", "gradients", 100, 5, 1, 1, 0.0), Stage("square", "scores", 95, late, 1, 0, 0.0))
        zeros = np.zeros(100, np.int64)
        return Attacked(np.zeros(100, bool), np.zeros((100, 1)), np.zeros(100), zeros, zeros, zeros, zeros, stages)

    assert health.of_the_attack(attacked(0)) == []
    assert health.of_the_attack(attacked(1))[0].startswith("masked gradients: black-box stages broke 1 images")


def test_a_masked_model_is_found_out_by_the_cascade():
    """Gradients of a quantised model are zero, its scores are not: Square breaks what APGD does not."""
    found = flags(Classifier(quantised, linear().params), "cascade([apgd(steps=5), square(queries=200)])", "linf(0.1)")
    assert {"zero gradients", "masked gradients"} <= set(found)


def test_a_loss_that_does_not_rise_with_eps_is_flagged():
    flat = Classifier(constant, {"b": jnp.array([1.0, 0.0, 0.0])})
    y = np.zeros(len(X), np.int32)
    assert health.along_eps(jax.random.key(0), linear(), build("budget", "linf(0.1)"), X, labelled(linear()).y) == []
    (flag,) = health.along_eps(jax.random.key(0), flat, build("budget", "linf(0.1)"), X, y)
    assert flag.startswith("loss does not rise with eps")
    assert health.of_the_model(linear(), X, Runtime()) == []
