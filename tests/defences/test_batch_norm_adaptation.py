"""Batch norm that adapts: its statistics against a recomputation, and images of which all are darker."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.models import build_model
from robustbench_jax.registry import build
from robustbench_jax.threats import corruption
from robustbench_jax.types import Dataset, UserError

KEY = jax.random.key(0)


def protected(text, model):
    return build("model_defence", text).protect(KEY, model, None)


@pytest.fixture(scope="module")
def resnet():
    return build_model("resnet20", (8, 8, 1), 3, KEY)


def images(count=32):
    return np.random.default_rng(0).uniform(size=(count, 8, 8, 1)).astype(np.float32)


def test_without_a_prior_the_statistics_are_those_of_the_images(resnet):
    """In training mode layers are normalised by the batch: the same logits, and statistics moved a tenth of the way."""
    x = images()
    model = protected("batch_norm_adaptation(prior=0)", resnet)
    adapted = model.replace(params=model.net.adapted(model.params, x))
    logits, moved = resnet.net.train(resnet.params, jnp.asarray(x), KEY)
    np.testing.assert_allclose(jax.vmap(adapted)(x), logits, atol=2e-4)
    for name, value in moved.items():
        if name not in resnet.net.weights and name.split("/")[-1] in ("mean", "var"):
            step = (value - resnet.params[name]) / 0.1 + resnet.params[name]
            np.testing.assert_allclose(adapted.params[0][name], step, atol=1e-4, err_msg=name)


def test_a_large_prior_changes_nothing_and_one_of_n_goes_half_way_in_the_first_layer(resnet):
    x = images()
    model = protected("batch_norm_adaptation(prior=1e9)", resnet)
    kept = model.net.adapted(model.params, x)[0]
    for name, value in resnet.params.items():
        np.testing.assert_allclose(kept[name], value, atol=1e-5)
    model = protected(f"batch_norm_adaptation(prior={len(x)})", resnet)
    half = model.net.adapted(model.params, x)[0]
    whole = protected("batch_norm_adaptation(prior=0)", resnet)
    all_ = whole.net.adapted(whole.params, x)[0]
    np.testing.assert_allclose(half["norm/mean"], (resnet.params["norm/mean"] + all_["norm/mean"]) / 2, atol=1e-6)


def test_in_the_corruption_threat_images_adapt_the_model_so_many_at_a_time(resnet):
    x = images(24)
    model = protected("batch_norm_adaptation(prior=0, together=16)", resnet)
    found = corruption.classified(model, x, corruption.Runtime())
    for part in (slice(0, 16), slice(16, 24)):
        logits, _ = resnet.net.train(resnet.params, jnp.asarray(x[part]), KEY)
        np.testing.assert_array_equal(found[part], np.argmax(logits, -1))
    data = Dataset((x * 255).astype(np.uint8), np.zeros(24, np.int32), ("a", "b", "c"), "noise")
    outcome = corruption.run(KEY, model, data, build("attack", "brightness"), build("budget", "severity(3)"))
    assert outcome.metrics["corrupted_accuracy"].n == 24


def test_alone_it_is_the_model_itself(resnet):
    model, x = protected("batch_norm_adaptation", resnet), images(1)[0]
    np.testing.assert_array_equal(model(x), resnet(x))


@pytest.mark.parametrize("text, message", [("(prior=-1)", "prior = -1.0"), ("(together=0)", "together = 0")])
def test_wrong_arguments_are_named(text, message):
    with pytest.raises(UserError, match=message):
        build("model_defence", f"batch_norm_adaptation{text}")


def test_a_model_without_batch_norm_is_refused():
    with pytest.raises(UserError, match="no batch norm"):
        protected("batch_norm_adaptation", build_model("mlp([4])", (4, 4, 1), 2, KEY))
