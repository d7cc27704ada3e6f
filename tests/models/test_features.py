"""Features: what the layers of a model see of an image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.models import build_model
from robustbench_jax.models.features import features, layer_inputs
from robustbench_jax.registry import build
from robustbench_jax.types import Classifier
from tests.oracles import affine

KEY = jax.random.key(0)
X = np.random.default_rng(0).uniform(size=(8, 8, 1)).astype(np.float32)


def model(text):
    return build_model(text, X.shape, 3, KEY)


def test_the_layers_of_an_mlp_see_the_image_and_the_activations_before_them():
    mlp = model("mlp([6, 4])")
    layers = [(np.asarray(mlp.params[f"{at}/kernel"]), mlp.params[f"{at}/bias"]) for at in ("hidden/0", "hidden/1")]
    expected = [X.reshape(-1)]
    for kernel, bias in layers:
        expected.append(np.maximum(expected[-1] @ kernel + bias, 0))
    seen = layer_inputs(mlp, X)
    assert len(seen) == 3
    for one, other in zip(seen, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    np.testing.assert_array_equal(features(mlp, X), seen[-1])


@pytest.mark.parametrize(
    "text, count",
    [
        ("cnn(convolutions=[[4, 3, 1], [8, 4, 2]], dense=[16])", 4),
        ("wide_resnet(depth=10, width=1)", 4),
        ("lipschitz_cnn", 5),
    ],
)
def test_the_head_makes_the_logits_of_the_features(text, count):
    net = model(text)
    module = net.net.module(net.params)
    seen = jax.eval_shape(lambda x: layer_inputs(net, x), X)
    assert len(seen) == count
    logits = jax.jit(lambda x: (module.head(features(net, x)), net(x)))(X)
    np.testing.assert_array_equal(*logits)


def test_looking_inside_leaves_the_model_as_it_is():
    mlp = model("mlp([6])")
    before = mlp(X)
    layer_inputs(mlp, X)
    np.testing.assert_array_equal(before, mlp(X))


def test_a_batch_has_the_layers_of_its_images():
    mlp = model("mlp([6])")
    batch = mlp.net.layer_inputs(mlp.params, jnp.stack([X, 1 - X]))
    np.testing.assert_allclose(batch[-1][1], features(mlp, 1 - X), atol=1e-6)


def test_behind_a_preprocessing_are_the_layers_of_what_it_lets_through():
    mlp = model("mlp([6])")
    coarse = build("model_defence", "bit_depth(1)").protect(KEY, mlp, None)
    np.testing.assert_array_equal(features(coarse, X), features(mlp, jnp.round(X)))


def test_any_other_function_shows_its_logits():
    plain = Classifier(affine, {"w": np.ones((64, 2), np.float32), "b": np.zeros(2, np.float32)})
    np.testing.assert_array_equal(features(plain, X), plain(X))
