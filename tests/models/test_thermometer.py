"""thermometer: codes against NumPy and the paper's own example, gradients, and other architectures behind it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.models import build_model, files
from robustbench_jax.models.thermometer import encoded
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.straight_through import PastRounding
from robustbench_jax.registry import build, canonical
from robustbench_jax.training import fit
from robustbench_jax.types import UserError
from tests import oracles

KEY = jax.random.key(0)


def test_codes_of_ten_levels_are_those_of_the_paper():
    """Its table 1: 0.13 is 0111111111, 0.66 is 0000001111 and 0.92 is 0000000001."""
    found = encoded(jnp.array([[[0.13, 0.66, 0.92]]]), 10).reshape(3, 10)
    np.testing.assert_array_equal(found, [[0] + 9 * [1], 6 * [0] + 4 * [1], 9 * [0] + [1]])


@pytest.mark.parametrize("levels", [2, 7, 16])
def test_every_level_of_grey_has_the_code_of_its_definition(levels):
    x = as_unit(np.arange(256, dtype=np.uint8)).reshape(4, 32, 2)
    steps = np.arange(1, levels + 1, dtype=np.float32)
    expected = (np.float32(levels) * x[..., None] <= steps).reshape(4, 32, 2 * levels)
    np.testing.assert_array_equal(encoded(x, levels), expected)


def test_the_network_behind_takes_levels_times_as_many_channels():
    model = build_model("thermometer(cnn([[5, 3, 1]], dense=[]), levels=6)", (8, 8, 3), 4, KEY)
    assert model.params["model/convolutions/0/kernel"].shape == (3, 3, 18, 5)
    assert canonical("model", "thermometer(mlp)") == "thermometer(model=mlp(widths=[256, 256]), levels=16)"


def test_its_gradient_is_zero_and_straight_through_rounding_it_is_that_of_the_nearest_step():
    model = build_model("thermometer(mlp([]), levels=4)", (1, 1, 1), 1, KEY)
    kernel = model.params["model/head/kernel"][:, 0]
    x = jnp.array([[[0.4]]])  # above 1/4 alone
    assert not np.any(jax.grad(lambda x: model(x)[0])(x))
    passed = jax.grad(lambda x: PastRounding(model)(x)[0])(x)
    np.testing.assert_allclose(passed.ravel(), [-4 * kernel[0]], rtol=1e-6)


def test_it_is_trained_and_kept_as_any_other_architecture(tmp_path):
    data, text = oracles.noise_images(), "thermometer(mlp([8]), levels=4)"
    model = build_model(text, (8, 8, 1), 5, KEY)
    recipe = build("recipe", "sgd(epochs=1, batch_size=8)")
    trained = fit(KEY, model, data, recipe, defence=build("training", "standard"))
    files.save(tmp_path / "model", trained, files.describe(trained, text, (8, 8, 1), 5))
    loaded, _ = files.load(tmp_path / "model")
    assert loaded.net == trained.net
    x = as_unit(data.x[0])
    np.testing.assert_array_equal(loaded(x), trained(x))


@pytest.mark.parametrize(
    "text, message",
    [
        ("thermometer(mlp, levels=1)", "levels = 1"),
        ("thermometer(nlp)", "did you mean 'mlp'"),
        ("thermometer(3)", "must name a model"),
    ],
)
def test_wrong_arguments_are_named(text, message):
    with pytest.raises(UserError, match=message):
        build_model(text, (8, 8, 1), 5, KEY)
