"""Lipschitz margins: a linear model's exact radius; constants that no pair of images, no Jacobian and no power
iteration exceeds; the loss by NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import special

from robustbench_jax.data import load_dataset
from robustbench_jax.models import build_model
from robustbench_jax.models.activations import STEEPEST
from robustbench_jax.models.lipschitz import LipschitzMLP
from robustbench_jax.models.lipschitz_bounds import conv_norm, pair_constants
from robustbench_jax.models.lipschitz_layers import AOLDense, SLLConv, SLLDense
from robustbench_jax.models.net import Net
from robustbench_jax.models.zoo import load_shipped
from robustbench_jax.ops import layers
from robustbench_jax.ops.judge import classify
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
    both = jax.jit(jax.vmap(model))
    apart = np.asarray(both(jnp.float32(a + d)) - both(jnp.float32(a)))
    moved = np.abs(apart[:, :, None] - apart[:, None]) / np.linalg.norm(d.reshape(64, -1), axis=1)[:, None, None]
    assert np.all(moved <= pairs * (1 + 1e-3) + 1e-6)
    assert pairs.max() <= 2 * (1 + 1e-6)


@pytest.mark.parametrize("name", ["tanh", "gelu"])
@pytest.mark.parametrize("arch", ["mlp([16, 8], {})", "cnn([[4, 3, 2]], [8], activation={})"])
def test_what_is_between_layers_counts_with_its_steepest_slope(arch, name):
    model, relu = (build_model(arch.format(repr(each)), SHAPE, 4, jax.random.key(1)) for each in (name, "relu"))
    np.testing.assert_allclose(pair_constants(model), STEEPEST[name] ** 2 * pair_constants(relu), rtol=1e-9)
    slopes = jax.jit(jax.vmap(jax.jacrev(model)))(np.random.default_rng(0).uniform(size=(32, *SHAPE)))
    slopes = np.asarray(slopes).reshape(32, 4, -1)
    assert np.all(np.linalg.norm(slopes[:, :, None] - slopes[:, None], axis=-1) <= pair_constants(model))


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


class Overstated(LipschitzMLP):
    """It says that it changes ten times as slowly as it was proved to."""

    def before_head(self):
        return super().before_head() / 10


def linear_of(w, std=1.0):
    """Logits w / std applied to the image, with w [H * W, C]."""
    model = build_model("mlp(widths=[])", (6, 6, 1), w.shape[1], jax.random.key(0))
    new = {"head/kernel": jnp.float32(w), "normalise/std": jnp.full(1, std, jnp.float32)}
    assert new.keys() <= model.params.keys()
    return model.replace(params=model.params | new)


@pytest.mark.parametrize("std", [0.25, 3.0])
def test_the_radius_is_on_the_scale_of_the_image_whatever_it_is_divided_by(std):
    rng, data = np.random.default_rng(0), oracles.noise_images(16, (6, 6, 1), 2)
    w = rng.normal(size=(36, 2))
    margin = (data.x.reshape(16, -1) / 255) @ (w[:, 1] - w[:, 0]) / std
    exact = np.abs(margin) / (np.linalg.norm(w[:, 1] - w[:, 0]) / std)
    found = certify(linear_of(w, std), data.x, (margin > 0).astype(int), "l2(0.1)")
    np.testing.assert_allclose(found.radius, exact, atol=1e-4)
    assert found.certified.any() and not found.flags
    arch = build_model("lipschitz_cnn(channels=4, inner=[8, 8])", SHAPE, 4, jax.random.key(1))
    divided = arch.replace(params=arch.params | {"normalise/std": jnp.full(1, std)})
    np.testing.assert_allclose(pair_constants(divided), pair_constants(arch) / std, rtol=1e-6)


def test_the_radius_in_l1_is_that_of_l2_and_exact_where_one_pixel_decides():
    rng, data = np.random.default_rng(0), oracles.noise_images(16, (6, 6, 1), 2)
    spread, single = rng.normal(size=(36, 2)), np.zeros((36, 2))
    single[7] = -1.5, 0.5
    for w in (spread, single):
        step = w[:, 1] - w[:, 0]
        margin = (data.x.reshape(16, -1) / 255) @ step
        found = {ball: certify(linear_of(w), data.x, (margin > 0).astype(int), f"{ball}(0.1)") for ball in ("l1", "l2")}
        np.testing.assert_array_equal(found["l1"].radius, found["l2"].radius)
        exact = np.abs(margin) / np.abs(step).max()
        assert np.all(found["l1"].radius <= exact)
        if w is single:
            np.testing.assert_allclose(found["l1"].radius, exact, atol=1e-4)


def test_a_network_that_changes_faster_than_it_says_is_found_out_and_nothing_is_certified():
    made = [cls((16,), shape=SHAPE, classes=3, rngs=nnx.Rngs(0)) for cls in (LipschitzMLP, Overstated)]
    honest, liar = (Classifier(*Net.split(module)) for module in made)
    data = oracles.noise_images(12, SHAPE, 3)
    y = classify(honest, data.x, NARROW)
    true, false = (certify(model, data.x, y, "l2(0.001)") for model in (honest, liar))
    assert true.certified.any() and not true.flags and np.isfinite(true.radius).all()
    assert not false.certified.any() and np.isnan(false.radius).all()
    assert "a gradient is longer than the Lipschitz constant" in false.flags[0]


@pytest.mark.parametrize(
    "base, sizes, shape", [(SLLConv, (3, 5, 3), (6, 7, 3)), (SLLDense, (12, 8), (12,)), (AOLDense, (12, 8), (12,))]
)
@pytest.mark.parametrize("share", [1.0, 0.7])
def test_no_jacobian_in_float64_exceeds_what_a_layer_says_of_itself(base, sizes, shape, share):
    """share: of the scale T that it should have; a layer that has less says so, and changes faster indeed."""

    class Layer(base):
        def scale(self):
            return share * super().scale()

    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        layer = Layer(*sizes, rngs=nnx.Rngs(0))
        layer.bias[...] = jnp.asarray(rng.normal(size=sizes[1]))
        jacobians = jax.jit(jax.vmap(jax.jacrev(layer)))(3 * rng.normal(size=(6, *shape)))
        constant = layer.constant()
        found = np.linalg.norm(np.asarray(jacobians).reshape(6, -1, np.prod(shape)), 2, axis=(1, 2))
        assert found.dtype == np.float64 and 0.8 < max(found) <= constant * (1 + 1e-12)
    assert (constant == 1.0) == (share == 1.0)
    if base is AOLDense:  # it begins with orthogonal columns
        assert max(found) == pytest.approx(share**-0.5, rel=1e-4)


@pytest.mark.parametrize("arch", ["lipschitz_cnn(channels=4, inner=[8, 8])", "lipschitz_mlp(widths=[16])"])
def test_the_margin_loss_is_the_cross_entropy_after_the_largest_step_against_the_label(arch):
    model = build_model(arch, SHAPE, 4, jax.random.key(2))
    model = model.replace(params=model.params | {"normalise/std": jnp.full(1, 0.5)})
    rng, eps, temperature = np.random.default_rng(3), 0.3, 0.25
    logits, y = rng.normal(size=(8, 4)), rng.integers(0, 4, 8)
    w = np.asarray(model.params["head/kernel"], np.float64)
    w = w / np.linalg.norm(w, axis=0)
    total = 0.0
    for f, label in zip(logits, y, strict=True):
        moved = [f[j] + eps / 0.5 * np.linalg.norm(w[:, j] - w[:, label]) for j in range(4)]
        total -= special.log_softmax(np.array(moved) / temperature)[label]
    defence = build("training", f"lipschitz_margin({eps}, {temperature})")
    given = jnp.float32(logits), jnp.asarray(y)
    found = defence.objective(jax.random.key(0), model, None, None, *given, 0.5)
    assert float(found) == pytest.approx(total / 8, rel=1e-5)


def test_the_margin_loss_is_for_networks_that_say_how_fast_they_change():
    model = build_model("mlp(widths=[4])", SHAPE, 4, jax.random.key(0))
    with pytest.raises(UserError, match="MLP is not Lipschitz by construction; take lipschitz_cnn or lipschitz_mlp"):
        build("training", "lipschitz_margin").objective(
            None, model, None, None, jnp.zeros((2, 4)), jnp.zeros(2, int), 0
        )
    for text in ("lipschitz_margin(0)", "lipschitz_margin(temperature=-1)"):
        with pytest.raises(UserError, match="must be greater than 0"):
            build("training", text)


def test_the_shipped_network_certifies_most_of_a_hundred_test_images():
    model, data = load_shipped("fashion_mnist/l2/sll")[0], load_dataset("fashion_mnist_mini", "test", 100)
    found = certify(model, data.x, data.y, "l2(0.25)")
    assert np.mean(found.prediction == data.y) > 0.75 and found.certified.mean() > 0.7 and not found.flags


def test_an_architecture_without_a_constant_is_refused():
    data = oracles.noise_images(2, (4, 4, 1), 2)
    with pytest.raises(UserError, match="no constant is known"):
        certify(Classifier(oracles.affine, {}), data.x, data.y, "l2(0.1)")
