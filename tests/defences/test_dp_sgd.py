"""Differentially private training: clipping, sampling, noise and accounting, against numbers from elsewhere."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from robustbench_jax.defences.training.dp_sgd import sampling, wide
from robustbench_jax.models import build_model, per_example
from robustbench_jax.models.blocks import Conv, Dense
from robustbench_jax.models.net import Net
from robustbench_jax.models.per_example import clipped_sum, losses
from robustbench_jax.models.weight_uses import products
from robustbench_jax.ops.accounting import epsilon, noise_for
from robustbench_jax.registry import build
from robustbench_jax.training import fit
from robustbench_jax.types import Classifier, UserError
from tests import oracles

KEY = jax.random.key(0)
SHAPE = (6, 6, 1)
DATA = oracles.noise_images(200, SHAPE, 4)


clipped = jax.jit(clipped_sum, static_argnums=(0, 6))


def batch(count=12):
    x = jax.random.uniform(KEY, (count, *SHAPE))
    return x, jnp.arange(count) % 4


def one_by_one(model, x, y, norm):
    """The clipped gradients, made one after another."""
    weights, out = model.net.trainable(model.params), None
    slope = jax.jit(jax.grad(lambda w, x, y: losses(model.net, model.params, w, x[None], y[None])[0]))
    for image, label in zip(x, y, strict=True):
        own = slope(weights, image, label)
        size = np.sqrt(sum(float(jnp.sum(v**2)) for v in own.values()))
        own = {k: v * min(1.0, norm / size) for k, v in own.items()}
        out = own if out is None else {k: out[k] + v for k, v in own.items()}
    return out


class Odd(nnx.Module):
    """A norm, a position that is no product, a kernel that is used twice, one in a loop and one of three axes."""

    def __init__(self, rngs):
        self.conv, self.head = Conv(1, 6, 3, padding=1, rngs=rngs), Dense(6, 4, last=True, rngs=rngs)
        self.norm, self.place = nnx.GroupNorm(6, 3, rngs=rngs), nnx.Param(jnp.ones((36, 6)))
        self.twice, self.looped = (nnx.Param(jnp.eye(6) + 0.1 * i) for i in range(2))
        self.wide = nnx.Param(jax.random.normal(rngs.params(), (3, 6, 2)))

    def __call__(self, x):
        x = self.norm(self.conv(x))
        x = x.reshape(*x.shape[:-3], 36, 6) * self.place[...]
        x = jnp.tanh(x @ self.twice[...]) @ self.twice[...]
        looped = self.looped[...]
        x = jax.lax.fori_loop(0, 2, lambda i, x: jnp.tanh(x @ looped), x)
        x = jnp.tanh(jnp.einsum("...ti,jik->...tkj", x, self.wide[...])).reshape(x.shape)
        return self.head(jnp.max(x, -2))


def made(text, shape):
    if text != "odd":
        return build_model(text, shape, 4, KEY)
    return Classifier(*Net.split(Odd(nnx.Rngs(0))))


@pytest.mark.parametrize(
    "text, shape",
    [
        ("mlp([])", SHAPE),
        ("mlp([16, 8])", SHAPE),
        ("cnn", (8, 8, 1)),
        ("cnn_a", (8, 8, 3)),
        ("odd", SHAPE),
        ("mlp([16, 8], 'tanh')", SHAPE),
        ("cnn([[4, 3, 1], [6, 3, 2]], [8], activation='tanh')", (8, 8, 1)),
        ("scattering(mlp([]), scales=1, angles=4, groups=5)", (8, 8, 1)),
    ],
)
def test_clipped_gradients_are_those_of_one_example_after_another(text, shape):
    model = made(text, shape)
    x, y = jax.random.uniform(KEY, (5, *shape)), jnp.arange(5) % 4
    expected, logits = one_by_one(model, x, y, 1.0), jax.jit(model.net)(model.params, x)
    for method in ("ghost", "vmap"):
        found, sizes, said = clipped(model.net, model.params, x[:, None], y, jnp.ones(5, bool), 1.0, method)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(said, logits, rtol=1e-4, atol=1e-5)
        assert float(jnp.max(sizes)) > 1.0  # something was clipped


def test_products_are_what_is_multiplied_once_by_a_weight_outside_of_loops():
    model = made("odd", SHAPE)
    assert set(products(model.net, model.params, jnp.zeros((1, *SHAPE)))) == {"conv/kernel", "head/kernel", "wide"}


@pytest.mark.parametrize("worth", [0, 10**9])
def test_norms_by_pairs_of_places_and_by_gradients_are_the_same(worth, monkeypatch):
    monkeypatch.setattr(per_example, "WORTH", worth)
    model = made("cnn_a", (8, 8, 3))
    x, y = jax.random.uniform(KEY, (4, 2, 8, 8, 3)), jnp.arange(4)
    given = (model.net, model.params, x, y, jnp.ones(4, bool), 0.5)
    found, sizes, _ = jax.jit(lambda *given: clipped_sum(model.net, *given, "ghost"))(*given[1:])
    expected, expected_sizes, _ = clipped(*given, "vmap")
    np.testing.assert_allclose(sizes, expected_sizes, rtol=1e-5)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("text", ["mlp([8])", "odd"])
def test_padding_and_examples_without_a_finite_gradient_count_for_nothing(text):
    model = made(text, SHAPE)
    x, y = batch()
    bad = x.at[3].set(jnp.nan)
    for method in ("ghost", "vmap"):
        counted = jnp.arange(12) < 6
        found, *_ = clipped(model.net, model.params, bad[:, None], y, counted, 1.0, method)
        rows = np.array([0, 1, 2, 4, 5])
        expected = one_by_one(model, x[rows], y[rows], 1.0)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=2e-4, atol=2e-5)


def test_copies_are_averaged_before_they_are_clipped():
    model = build_model("mlp([8])", SHAPE, 4, KEY)
    x, y = batch(4)
    twice, *_ = clipped(model.net, model.params, jnp.stack([x, x], 1), y, jnp.ones(4, bool), 0.5, "vmap")
    once, *_ = clipped(model.net, model.params, x[:, None], y, jnp.ones(4, bool), 0.5, "vmap")
    for name, value in once.items():
        np.testing.assert_allclose(twice[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "noise, batch_size, epochs, images, rdp, pld",
    [
        (1.3, 240, 15, 60000, 0.92, 0.84),
        (1.1, 240, 60, 60000, 2.50, 2.31),
        (0.7, 240, 45, 60000, 6.09, 5.44),
        (1.23, 512, 40, 60000, 2.58, 2.37),
        (2.15, 2048, 40, 60000, 2.60, 2.39),
        (1.54, 1024, 30, 50000, 2.61, 2.39),
        (1.1, 256, 60, 60000, 2.60, 2.39),
    ],
)
def test_published_configurations_have_the_epsilon_of_todays_accountants(noise, batch_size, epochs, images, rdp, pld):
    """dp-accounting 0.6.0 on the settings of Opacus' MNIST example, Tramer & Boneh's, and TF-Privacy's tutorial."""
    rate, steps = batch_size / images, epochs * images // batch_size
    assert epsilon(noise, rate, steps, 1e-5, "rdp") == pytest.approx(rdp, abs=0.011)
    assert epsilon(noise, rate, steps, 1e-5, "pld") == pytest.approx(pld, rel=0.01)


def test_calibrated_noise_never_promises_too_much_and_hardly_too_little():
    """Opacus#346: a search that ends on the wrong side."""
    for wanted in (0.5, 3.0):
        noise = noise_for(wanted, 0.02, 500, 1e-5)
        assert wanted * 0.995 < epsilon(noise, 0.02, 500, 1e-5) <= wanted
    assert epsilon(0.0, 0.02, 500, 1e-5) == np.inf


def test_what_is_sampled_is_a_coin_for_each_example_and_never_cut():
    recipe = build("recipe", "sgd(epochs=3, batch_size=50)")
    assert sampling(recipe, 200) == (0.25, 12)
    assert 50 < wide(0.25, 200) < 200 and wide(1.0, 200) == 200


def trained(
    text, recipe="sgd(epochs=4, batch_size=40, learning_rate=0.5, weight_decay=0)", model="mlp([8])", data=DATA
):
    fresh = build_model(model, SHAPE, 4, KEY)
    return fit(KEY, fresh, data, build("recipe", recipe), defence=build("training", text)), fresh


def test_the_noise_has_the_stated_size_over_the_expected_batch():
    """A model that does not learn (clip -> 0) moves by noise alone: sigma * clip / expected batch at each step."""
    text = "dp_sgd(noise=2.0, clip=1e-3)"
    recipe = "sgd(epochs=1, batch_size=40, learning_rate=1.0, weight_decay=0, schedule='constant', momentum=0.0)"
    model, fresh = trained(text, recipe, "mlp([64])")
    moved = np.concatenate([(model.params[k] - fresh.params[k]).ravel() for k in model.net.trainable(model.params)])
    expected = 2.0 * 1e-3 / 40 * np.sqrt(5)
    assert np.std(moved) == pytest.approx(expected, rel=0.08)


def test_without_noise_and_clipping_it_is_the_gradient_of_the_batch_over_its_expected_size():
    text = "dp_sgd(noise=1e-9, clip=1e6)"
    recipe = "sgd(epochs=1, batch_size=200, learning_rate=0.1, weight_decay=0, schedule='constant', momentum=0.0)"
    model, fresh = trained(text, recipe)
    x, y = jnp.asarray(DATA.x / 255.0, jnp.float32), jnp.asarray(DATA.y)
    slope = jax.grad(lambda w: jnp.mean(losses(fresh.net, fresh.params, w, x, y)))(fresh.net.trainable(fresh.params))
    for name, value in slope.items():
        np.testing.assert_allclose(model.params[name], fresh.params[name] - 0.1 * value, rtol=1e-3, atol=1e-5)


def test_dp_adam_is_adam_on_the_noisy_clipped_gradient():
    """Its first step, without noise, has the sign of the clipped sum and the size of the learning rate."""
    recipe = "adamw(epochs=1, batch_size=200, learning_rate=0.01, weight_decay=0, schedule='constant')"
    model, fresh = trained("dp_sgd(noise=1e-9, clip=0.5)", recipe)
    x, y = jnp.asarray(DATA.x / 255.0, jnp.float32)[:, None], jnp.asarray(DATA.y)
    summed, *_ = clipped(fresh.net, fresh.params, x, y, jnp.ones(200, bool), 0.5, "vmap")
    for name, value in summed.items():
        large = np.abs(value) > 1e-3
        moved = np.asarray(model.params[name] - fresh.params[name])
        np.testing.assert_allclose(moved[large], -0.01 * np.sign(value)[large], rtol=1e-3)
    noisy = build("training", "dp_sgd(epsilon=2.0)").guarantee(build("recipe", recipe), 200)
    assert noisy == build("training", "dp_sgd(epsilon=2.0)").guarantee(
        build("recipe", "sgd(epochs=1, batch_size=200)"), 200
    )  # what an optimiser makes of noisy gradients costs nothing


def test_augmented_copies_are_averaged_and_not_clipped_one_by_one():
    """An image and its mirror image whose gradients are long and partly cancel: clipping each before is another sum."""
    model = build_model("mlp([8])", SHAPE, 4, KEY)
    x, y = batch(4)
    both = jnp.stack([x, x[:, :, ::-1]], 1)
    found, *_ = clipped(model.net, model.params, both, y, jnp.ones(4, bool), 0.5, "auto")
    weights = model.net.trainable(model.params)
    right, wrong = None, None
    for pair, label in zip(both, y, strict=True):
        each = [
            jax.grad(lambda w, i=i, t=label: losses(model.net, model.params, w, i[None], t[None])[0])(weights)
            for i in pair
        ]
        mean = jax.tree.map(lambda a, b: (a + b) / 2, *each)
        before = jax.tree.map(lambda a, b: (a + b) / 2, *(_clipped(own, 0.5) for own in each))
        right, wrong = (
            own if all_ is None else jax.tree.map(jnp.add, all_, own)
            for all_, own in ((right, _clipped(mean, 0.5)), (wrong, before))
        )
    name = "head/kernel"
    np.testing.assert_allclose(found[name], right[name], rtol=2e-4, atol=2e-5)
    assert float(jnp.abs(found[name] - wrong[name]).max()) > 1e-3


def _clipped(gradient, norm):
    size = np.sqrt(sum(float(jnp.sum(v**2)) for v in gradient.values()))
    return {k: v * min(1.0, norm / size) for k, v in gradient.items()}


def test_the_two_ways_of_clipping_train_the_same_model():
    one, other = (trained(f"dp_sgd(noise=1.0, clipping='{method}')")[0] for method in ("ghost", "vmap"))
    for name, value in one.params.items():
        np.testing.assert_allclose(other.params[name], value, rtol=1e-3, atol=1e-4)


def test_a_batch_that_is_wider_than_expected_is_added_up_in_parts(monkeypatch):
    from robustbench_jax.defences.training import dp_sgd

    whole, _ = trained("dp_sgd(noise=1.0)")
    monkeypatch.setattr(dp_sgd, "wide", lambda rate, images: 16)
    parts, _ = trained("dp_sgd(noise=1.0)")
    for name, value in whole.params.items():
        np.testing.assert_allclose(parts.params[name], value, rtol=1e-3, atol=1e-4)


def test_the_promise_is_that_of_its_arguments():
    recipe = build("recipe", "sgd(epochs=4, batch_size=40)")
    found = build("training", "dp_sgd(epsilon=2.0, delta=1e-4)").guarantee(recipe, 200)
    assert 1.98 < found.epsilon <= 2.0 and (found.rate, found.steps) == (0.2, 20) and "pld" in found.accountant
    fixed = build("training", "dp_sgd(noise=1.5)").guarantee(recipe, 200)
    assert fixed.noise == 1.5 and fixed.epsilon == epsilon(1.5, 0.2, 20, 1e-5)
    assert dataclasses.asdict(fixed)["delta"] == 1e-5


@pytest.mark.parametrize(
    "text, model, recipe, message",
    [
        ("dp_sgd", "preact_resnet18", "sgd(epochs=1, batch_size=40)", "batch norm mixes the examples of a batch"),
        ("dp_sgd", "mlp([8])", "sgd(epochs=1, batch_size=40, ema=0.9)", "holdout, ema and swa"),
        ("dp_sgd", "mlp([8])", "sgd(epochs=1, batch_size=400)", "batch_size = 400: there are 200"),
    ],
)
def test_what_it_cannot_promise_is_refused(text, model, recipe, message):
    shape = SHAPE if model != "preact_resnet18" else (8, 8, 1)
    data = oracles.noise_images(200, shape, 4)
    fresh = build_model(model, shape, 4, KEY)
    with pytest.raises(UserError, match=message):
        fit(KEY, fresh, data, build("recipe", recipe), defence=build("training", text))


@pytest.mark.parametrize(
    "text, message",
    [
        ("dp_sgd(epsilon=0)", "epsilon = 0.0 must be greater than 0"),
        ("dp_sgd(delta=1.0)", "delta = 1.0 must be below 1"),
        ("dp_sgd(noise=-1.0)", "noise = -1.0 must be at least 0"),
        ("dp_sgd(clipping='fast')", "clipping = 'fast'; there are: auto, ghost, vmap"),
        ("dp_sgd(accountant='prv')", "accountant = 'prv'; there are: pld, rdp"),
    ],
)
def test_wrong_arguments_are_named(text, message):
    with pytest.raises(UserError, match=message):
        build("training", text)
