"""Lipschitz margins: a linear model's exact radius; constants that no pair of images, no power iteration exceeds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.models import build_model
from robustbench_jax.models.lipschitz_bounds import conv_norm, pair_constants
from robustbench_jax.ops import layers
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import build
from robustbench_jax.types import Classifier, UserError
from tests import oracles

NARROW = Runtime(width=16, devices=1)
SHAPE = (9, 9, 1)


def certify(model, x, y, budget):
    made = build("certifier", "lipschitz")
    return made.certify(jax.random.key(0), model, x, y, build("budget", budget), ids=np.arange(len(x)), runtime=NARROW)


def test_the_radius_of_a_linear_model_is_its_margin_over_the_norm_of_its_weights():
    model = build_model("mlp(widths=[])", (6, 6, 1), 3, jax.random.key(0))
    data = oracles.noise_images(16, (6, 6, 1), 3)
    w = np.asarray(model.params["head/kernel"], np.float64)
    logits = (data.x.reshape(16, -1) / 255) @ w
    y = logits.argmax(-1)
    exact = [
        min((f[c] - f[j]) / np.linalg.norm(w[:, c] - w[:, j]) for j in range(3) if j != c)
        for f, c in zip(logits, y, strict=True)
    ]
    np.testing.assert_allclose(certify(model, data.x, y, "l2(0.1)").radius, exact, atol=1e-4)
    np.testing.assert_allclose(certify(model, data.x, y, "linf(0.1)").radius, np.array(exact) / 6, atol=1e-4)


@pytest.mark.parametrize("arch", ["lipschitz_cnn(channels=4, inner=[8, 8])", "lipschitz_mlp(widths=[32, 17])"])
def test_no_pair_of_images_is_further_apart_than_the_constant_allows(arch):
    model = build_model(arch, SHAPE, 4, jax.random.key(1))
    pairs = pair_constants(model)
    rng = np.random.default_rng(0)
    a, d = rng.uniform(size=(64, *SHAPE)), rng.normal(size=(64, *SHAPE)) * 10.0 ** rng.uniform(-2, 0, (64, 1, 1, 1))
    apart = np.asarray(jax.vmap(model)(jnp.float32(a + d)) - jax.vmap(model)(jnp.float32(a)))
    moved = np.abs(apart[:, :, None] - apart[:, None]) / np.linalg.norm(d.reshape(64, -1), axis=1)[:, None, None]
    assert np.all(moved <= pairs * (1 + 1e-3) + 1e-6)
    assert pairs.max() <= 2 * (1 + 1e-6)


@pytest.mark.parametrize("stride, pads", [(1, (1, 1)), (2, (1, 2)), (2, (0, 1)), (3, (2, 0))])
def test_power_iteration_in_float64_never_exceeds_the_bound_of_a_convolution(stride, pads):
    with jax.enable_x64(True):
        kernel = np.random.default_rng(stride).normal(size=(4, 4, 3, 5))

        def conv(x):
            return layers.plain(x, jnp.asarray(kernel), strides=(stride, stride), pads=(pads, pads))

        x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 9, 9, 3)))
        _, back = jax.vjp(conv, x)
        for _ in range(60):
            x = back(conv(x / jnp.linalg.norm(x)))[0]
        sigma = float(jnp.sqrt(jnp.linalg.norm(x)))
    assert 0.3 * conv_norm(kernel, stride) < sigma <= conv_norm(kernel, stride)


def test_an_architecture_without_a_constant_is_refused():
    data = oracles.noise_images(2, (4, 4, 1), 2)
    with pytest.raises(UserError, match="no constant is known"):
        certify(Classifier(oracles.affine, {}), data.x, data.y, "l2(0.1)")
