"""scattering: its features and their normalisation, other networks behind it, and private training of these."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.models import build_model, files, fixed_fronts
from robustbench_jax.models.features import features, layer_inputs
from robustbench_jax.models.net import count
from robustbench_jax.models.scattering import normalised
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.wavelets import paths, scattered
from robustbench_jax.registry import build, canonical
from robustbench_jax.training import fit
from robustbench_jax.types import UserError
from tests import oracles

KEY = jax.random.key(0)
SHAPE = (8, 8, 1)
SMALL = "scattering(mlp([]), scales=1, angles=2, groups=3)"
RECIPE = "sgd(epochs=2, batch_size=8, learning_rate=0.5, weight_decay=0)"


def test_it_is_the_normalised_features_and_what_is_behind_them():
    model = build_model("scattering(mlp([5]), angles=2, groups=9)", SHAPE, 3, KEY)
    inside = build_model("mlp([5])", (2, 2, paths(2, 2)), 3, KEY)
    inside = inside.replace(params={k.removeprefix("model/"): v for k, v in model.params.items()})
    x = jax.random.uniform(KEY, SHAPE)
    expected = inside(normalised(scattered(x, 2, 2), 9))
    np.testing.assert_allclose(model(x), expected, rtol=1e-5, atol=1e-6)
    assert count(model) == 4 * 9 * 5 + 5 + 5 * 3 + 3
    assert canonical("model", "scattering") == "scattering(model=mlp(widths=[]), scales=2, angles=8, groups=27)"


def test_groups_have_mean_0_and_variance_1_in_each_image_by_itself():
    x = jnp.asarray(np.random.default_rng(0).normal(3, 2, (5, 4, 4, 6)), jnp.float32)
    parts = np.asarray(normalised(x, 3)).reshape(5, 4, 4, 3, 2)
    np.testing.assert_allclose(parts.mean((1, 2, 4)), 0, atol=1e-5)
    np.testing.assert_allclose(parts.std((1, 2, 4)), 1, rtol=1e-4)
    np.testing.assert_allclose(normalised(x[1], 3), normalised(x, 3)[1], atol=1e-6)


def test_its_layers_are_those_of_the_network_behind_it():
    model = build_model("scattering(mlp([5]), angles=2, groups=0)", SHAPE, 3, KEY)
    x = jax.random.uniform(KEY, SHAPE)
    seen = layer_inputs(model, x)
    np.testing.assert_allclose(seen[0].ravel(), scattered(x, 2, 2).ravel(), atol=1e-6)
    assert features(model, x).shape == (5,)
    kernel, bias = (model.params[f"model/head/{name}"] for name in ("kernel", "bias"))
    np.testing.assert_allclose(features(model, x) @ kernel + bias, model(x), atol=1e-5)


def test_it_is_trained_and_kept_as_any_other_architecture(tmp_path):
    data, model = oracles.noise_images(), build_model(SMALL, SHAPE, 5, KEY)
    trained = fit(KEY, model, data, build("recipe", RECIPE), defence=build("training", "standard"))
    files.save(tmp_path / "model", trained, files.describe(trained, SMALL, SHAPE, 5))
    loaded, _ = files.load(tmp_path / "model")
    assert loaded.net == trained.net
    x = as_unit(data.x[0])
    np.testing.assert_array_equal(loaded(x), trained(x))


@pytest.mark.parametrize("inside", ["mlp([])", "cnn([[4, 3, 1]], dense=[], activation='tanh')"])
def test_private_training_on_features_made_once_is_that_on_images(inside, monkeypatch):
    text = SMALL.replace("mlp([])", inside)
    data, model = oracles.noise_images(), build_model(text, SHAPE, 5, KEY)
    recipe, defence = build("recipe", RECIPE), build("training", "dp_sgd(epsilon=3.0)")
    once = fit(KEY, model, data, recipe, defence=defence)
    monkeypatch.setattr(fixed_fronts, "LARGEST", 0)
    again = fit(KEY, model, data, recipe, defence=defence)
    assert once.net == model.net and set(once.params) == set(model.params)
    moved = [np.abs(np.asarray(once.params[name] - model.params[name])).max() for name in once.net.weights]
    assert min(moved) > 1e-3
    for name, value in again.params.items():
        np.testing.assert_allclose(once.params[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "text, message",
    [
        ("scattering(groups=4)", "groups = 4 must divide 81 channels; the nearest that does is 3"),
        ("scattering(scales=0)", "scales = 0 must be greater than 0"),
        ("scattering(nlp([]))", "did you mean 'mlp'"),
        ("scattering(scales=3)", "at least 16x16"),
    ],
)
def test_wrong_arguments_are_named(text, message):
    with pytest.raises(UserError, match=message):
        build_model(text, SHAPE, 5, KEY)
