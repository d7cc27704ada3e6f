"""Compression: how many weights go, how many levels stay, and what that costs."""

import jax
import numpy as np
import pytest

from robustbench_jax.models import build_model
from robustbench_jax.models.quantised import levelled, rounded
from robustbench_jax.ops.judge import classify, predict
from robustbench_jax.registry import build, discover
from robustbench_jax.training import fit
from robustbench_jax.types import UserError
from tests import oracles

KEY = jax.random.key(0)
CALLS = {"low_rank": "low_rank(0.5)", "pruned": "pruned(0.5)", "quantised": "quantised(4)"}
NOTHING = ["low_rank(1.0)", "pruned(0.0)"]


def compressed(text, model=None):
    known, data = oracles.small_cnn()
    return build("model_defence", text).protect(KEY, known if model is None else model, data)


def test_every_compression_has_a_call_here():
    assert set(CALLS) == {name for name, it in discover("model_defence").items() if it.facts.get("compresses")}


@pytest.mark.parametrize("name", CALLS)
def test_the_model_is_left_as_it_was_and_another_one_is_made(name):
    model, data = oracles.small_cnn()
    before = predict(model, data.x)
    made = build("model_defence", CALLS[name]).protect(KEY, model, data)
    np.testing.assert_array_equal(predict(model, data.x), before)
    assert 0 < np.abs(predict(made, data.x) - before).max() < 10 * np.abs(before).max()


@pytest.mark.parametrize("text", NOTHING)
def test_nothing_taken_changes_nothing(text):
    model, data = oracles.small_cnn()
    np.testing.assert_allclose(predict(compressed(text), data.x), predict(model, data.x), atol=1e-5)


@pytest.mark.parametrize("share", [0.25, 0.9])
def test_pruning_removes_the_smallest_weights_and_exactly_so_many(share):
    model, _ = oracles.small_cnn()
    names = [name for name in model.params if name.endswith("kernel")]
    whole = np.concatenate([np.abs(model.params[name]).ravel() for name in names])
    made = compressed(f"pruned({share})").params
    zero = np.concatenate([np.asarray(made[name]).ravel() == 0 for name in names])
    assert zero.sum() == round(share * whole.size)
    assert whole[zero].max() <= whole[~zero].min()
    for name in names:
        own = np.asarray(compressed(f"pruned({share}, 'layer')").params[name])
        assert abs(np.mean(own == 0) - share) < 1 / own.size + 0.01


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights_have_no_more_levels_than_their_bits(bits):
    made = compressed(f"quantised({bits}, activations=0)").params
    for name, value in made.items():
        if name.endswith("kernel"):
            channels = np.asarray(value).reshape(-1, value.shape[-1]).T
            assert max(len(np.unique(channel)) for channel in channels) <= 2**bits - 1


def test_rounding_is_at_most_half_a_unit_away_and_keeps_zero():
    kernel = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    unit = np.abs(kernel).max(0) / 7
    assert np.all(np.abs(rounded(kernel, 4) - kernel) <= unit / 2 + 1e-6)
    x = np.linspace(-0.3, 1, 99, dtype=np.float32)
    for past in (False, True):
        seen = np.asarray(levelled(np.append(x, 0), np.float32(-0.3), np.float32(1), 4, past))
        assert len(np.unique(seen.round(6))) <= 16 and seen[-1] == 0
        assert np.abs(seen[:-1] - x).max() <= 1.3 / 15 / 2 + 0.5 * 1.3 / 15


def test_low_rank_is_the_nearest_matrix_of_its_rank():
    model, _ = oracles.small_cnn()
    made = compressed("low_rank(0.5)").params["dense/0/kernel"]
    values = np.linalg.svd(np.asarray(model.params["dense/0/kernel"]), compute_uv=False)
    left = np.linalg.svd(np.asarray(made), compute_uv=False)
    assert np.sum(left > 1e-4 * left[0]) == round(len(values) / 2)
    distance = np.linalg.norm(np.asarray(made) - np.asarray(model.params["dense/0/kernel"]))
    np.testing.assert_allclose(distance, np.sqrt(np.sum(values[round(len(values) / 2) :] ** 2)), rtol=1e-4)


def test_eight_bits_keep_nearly_every_prediction():
    model, data = oracles.small_cnn()
    images = oracles.noise_images(400, seed=3).x
    assert np.mean(classify(compressed("quantised(8)"), images) == classify(model, images)) > 0.97


def test_who_was_trained_for_rounding_loses_less_by_it():
    data = oracles.noise_images(200, shape=(4, 4, 1), classes=3)
    images = data.x.reshape(200, -1)
    data = type(data)(data.x, images[:, :9].reshape(200, 3, 3).sum(-1).argmax(-1).astype(np.int32), tuple("abc"), "n")
    recipe = build("recipe", "sgd(epochs=60, batch_size=50, learning_rate=0.1, weight_decay=0)")
    fresh, rate = build_model("mlp([16])", (4, 4, 1), 3, KEY), {}
    for text in ("standard", "quantisation_aware(2)"):
        model = fit(KEY, fresh, data, recipe, defence=build("training", text))
        made = build("model_defence", "quantised(2, activations=0)").protect(KEY, model, data)
        rate[text] = np.mean(classify(made, data.x) == data.y)
    assert rate["quantisation_aware(2)"] > rate["standard"] + 0.02


@pytest.mark.parametrize(
    "kind, text, message",
    [
        ("model_defence", "pruned(1.0)", "share = 1.0"),
        ("model_defence", "pruned(0.5, 'layers')", "did you mean 'layer'"),
        ("model_defence", "low_rank(0.0)", "share = 0.0"),
        ("model_defence", "quantised(1)", "there are 2 to 8"),
        ("model_defence", "quantised(8, activations=16)", "16 bits; there are 2 to 8"),
        ("training", "quantisation_aware(9)", "bits = 9"),
    ],
)
def test_a_wrong_number_is_named(kind, text, message):
    with pytest.raises(UserError, match=message):
        build(kind, text)
