"""Noisy votes: how often the noise decides, what so many answers promise, and whom they promise nothing."""

import jax
import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, SelfComposedDpEvent
from dp_accounting.rdp import RdpAccountant
from scipy.stats import norm

from robustbench_jax.models import build_model
from robustbench_jax.models.ensemble import Ensemble
from robustbench_jax.registry import build
from robustbench_jax.types import Classifier, UserError
from tests import oracles

KEY = jax.random.key(0)
DATA = oracles.noise_images(12, (4, 4, 1), 3)


def ensemble(spread=1, draws=0):
    """Eleven linear models, each of which says a class of its own whatever the image: 6, 4 and 1 votes."""
    model = build_model("mlp([])", (4, 4, 1), 3, KEY)
    votes = np.repeat([0, 1, 2], [6, 4, 1])
    params = {k: np.zeros((11, *v.shape), np.float32) for k, v in model.params.items()}
    params["normalise/std"] = np.ones((11, 1), np.float32)
    params["head/bias"] = np.eye(3, dtype=np.float32)[votes]
    return Classifier(Ensemble(model.net, 11, spread, draws, 12 if draws else 0), params)


def said(text, count=3000):
    model = build("model_defence", text).protect(KEY, ensemble(), DATA)
    image = np.zeros((4, 4, 1), np.float32)
    logits = jax.jit(jax.vmap(lambda key: model.keyed(key)(image)))(jax.random.split(KEY, count))
    return np.asarray(logits)


def test_the_label_alone_is_answered_and_without_noise_it_is_the_majoritys():
    logits = said("noisy_votes(0.001)", 20)
    assert (logits.argmax(-1) == 0).all() and np.unique(logits).size == 2


def test_noise_is_in_votes():
    """Two votes ahead of the second and five of the third, noise of sigma on each: by simulation, and by a bound."""
    found = said("noisy_votes(2.0)").argmax(-1)
    rng = np.random.default_rng(0)
    expected = ([6, 4, 1] + 2.0 * rng.normal(size=(100_000, 3))).argmax(-1)
    np.testing.assert_allclose(np.bincount(found, minlength=3) / 3000, np.bincount(expected) / 100_000, atol=0.03)
    assert np.mean(found != 0) <= sum(norm.sf(gap / (2 * np.sqrt(2))) for gap in (2, 5)) + 0.02


def test_answers_promise_what_so_many_additions_of_noise_to_two_counts_do():
    found = build("model_defence", "noisy_votes(30.0)").guarantee(200, 1e-6)
    accountant = RdpAccountant()
    accountant.compose(SelfComposedDpEvent(GaussianDpEvent(30.0 / np.sqrt(2)), 200))
    assert 0.8 * accountant.get_epsilon(1e-6) < found.epsilon <= accountant.get_epsilon(1e-6)
    assert found.epsilon > build("model_defence", "noisy_votes(30.0)").guarantee(100, 1e-6).epsilon
    assert "200 answers" in found.terms


@pytest.mark.parametrize("model", [build_model("mlp([])", (4, 4, 1), 3, KEY), ensemble(2), ensemble(1, 5)])
def test_models_that_share_training_images_are_promised_nothing(model):
    with pytest.raises(UserError, match="nothing bounds what one training image changes"):
        build("model_defence", "noisy_votes").protect(KEY, model, DATA)


def test_a_wrong_argument_is_named():
    with pytest.raises(UserError, match="noisy_votes: sigma = 0.0 must be greater than 0"):
        build("model_defence", "noisy_votes(0)")
