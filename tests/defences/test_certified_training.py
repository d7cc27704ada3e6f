"""IBP, CROWN-IBP, SABR and MTL-IBP: worst cases against NumPy, losses at each end of a schedule, trainings."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from robustbench_jax.defences.training import certified
from robustbench_jax.defences.training.crown_ibp import worst_by_lines
from robustbench_jax.models import build_model
from robustbench_jax.ops.bounds.regions import Bounds
from robustbench_jax.registry import build, canonical
from robustbench_jax.training import fit
from robustbench_jax.types import Dataset, UserError
from tests import oracles

KEY = jax.random.key(0)
METHODS = ("ibp", "crown_ibp", "sabr", "mtl_ibp")


def dense_net():
    """A dense network with images, labels, and its kernels and biases in float64."""
    model = build_model("mlp([7, 6])", (3, 3, 1), 4, KEY)
    rng = np.random.default_rng(0)
    params = {name: jnp.asarray(rng.normal(size=v.shape, scale=0.6), jnp.float32) for name, v in weights(model).items()}
    x, y = rng.uniform(size=(5, 3, 3, 1)).astype(np.float32), np.array([0, 3, 1, 2, 2])
    model = model.replace(params=model.params | params)
    kernels = sorted((n for n in params if n.endswith("kernel")), key=lambda n: (n.startswith("head"), n))
    layers = [(np.float64(params[k]), np.float64(params[k.replace("kernel", "bias")])) for k in kernels]
    return model, jnp.asarray(x), jnp.asarray(y), layers


def weights(model):
    return model.net.trainable(model.params)


def by_hand(x, y, layers, eps):
    """Worst-case logits [C] and the intervals of the hidden layers of one image, coefficient by coefficient."""
    low, high = np.maximum(x.ravel() - eps, 0), np.minimum(x.ravel() + eps, 1)
    seen = []
    for kernel, bias in layers[:-1]:
        up, down = np.maximum(kernel, 0), np.minimum(kernel, 0)
        low, high = low @ up + high @ down + bias, high @ up + low @ down + bias
        seen.append((low, high))
        low, high = np.maximum(low, 0), np.maximum(high, 0)
    kernel, bias = layers[-1]
    change = kernel - kernel[:, [y]]
    return high @ np.maximum(change, 0) + low @ np.minimum(change, 0) + bias - bias[y], seen


@pytest.mark.parametrize("eps", [0.0, 0.03, 0.4])
def test_worst_case_logits_are_those_of_interval_arithmetic_by_hand(eps):
    model, x, y, layers = dense_net()
    found = certified.worst(model, certified.around(x, eps), y, 4)
    for i in range(5):
        expected, seen = by_hand(np.float64(x[i]), int(y[i]), layers, eps)
        np.testing.assert_allclose(found.logits[i], expected, atol=1e-5)
        for bounds, (low, high) in zip(found.layers, seen, strict=True):
            np.testing.assert_allclose(bounds.low[i], low, atol=1e-5)
            np.testing.assert_allclose(bounds.high[i], high, atol=1e-5)


def test_worst_cases_by_lines_are_exact_on_a_linear_model_and_hold_on_a_network(linear):
    x, y = jnp.asarray(linear.data.x[:4] / 255, jnp.float32), jnp.asarray(linear.data.y[:4])
    found = worst_by_lines(linear.model, certified.around(x, 0.1), y, 2)
    expected = 0.1 * np.abs(linear.weights).sum() - linear.margin[:4]
    np.testing.assert_allclose(found[np.arange(4), 1 - y], expected, atol=1e-4)
    model, x, y, _ = dense_net()
    bound = worst_by_lines(model, certified.around(x, 0.1), y, 4)
    inside = jnp.clip(x + jax.random.uniform(KEY, (500, *x.shape), minval=-0.1, maxval=0.1), 0, 1)
    logits = jax.vmap(jax.vmap(model))(inside)
    seen = logits - logits[:, jnp.arange(5), y][..., None]
    assert (seen.max(0) <= bound + 1e-5).all()


def objective(text, model, x, y, progress, adversarial=None):
    logits = jax.vmap(model)(x)
    x_adv = x if adversarial is None else adversarial
    return float(build("training", text).objective(KEY, model, x, x_adv, logits, y, jnp.float32(progress)))


def cross_entropy(logits, y):
    return -np.mean(special.log_softmax(np.float64(logits), -1)[np.arange(len(y)), y])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_with_no_eps_every_loss_is_the_clean_cross_entropy(method, progress):
    model, x, y, _ = dense_net()
    expected = cross_entropy(jax.vmap(model)(x), y)
    assert objective(f"{method}(0, regularise=0)", model, x, y, progress) == pytest.approx(expected, rel=1e-5)


def test_losses_at_the_end_of_the_schedule_are_made_of_worst_cases_by_hand():
    model, x, y, layers = dense_net()
    worst = cross_entropy([by_hand(np.float64(a), int(b), layers, 0.05)[0] for a, b in zip(x, y, strict=True)], y)
    clean = cross_entropy(jax.vmap(model)(x), y)
    x_adv = jnp.clip(x + 0.2, 0, 1)
    moved = jnp.minimum(x_adv, x + 0.05)
    attacked = cross_entropy(jax.vmap(model)(moved), y)
    small = [
        by_hand(np.float64(a), int(b), layers, 0.02)[0] for a, b in zip(np.minimum(x_adv, x + 0.03), y, strict=True)
    ]
    assert objective("ibp(0.05)", model, x, y, 1.0) == pytest.approx(worst, rel=1e-4)
    assert objective("ibp(0.05, kappa=0.25)", model, x, y, 1.0) == pytest.approx(0.75 * worst + 0.25 * clean, rel=1e-4)
    assert objective("crown_ibp(0.05)", model, x, y, 1.0) == pytest.approx(worst, rel=1e-4)
    mixed = objective("mtl_ibp(0.05, alpha=0.3)", model, x, y, 1.0, x_adv)
    assert mixed == pytest.approx(0.3 * worst + 0.7 * attacked, rel=1e-4)
    assert objective("sabr(0.05, share=0.4)", model, x, y, 1.0, x_adv) == pytest.approx(
        cross_entropy(small, y), rel=1e-4
    )
    norm = sum(np.abs(kernel).sum() for kernel, _ in layers)
    assert objective("ibp(0.05, l1=0.01)", model, x, y, 1.0) == pytest.approx(worst + 0.01 * norm, rel=1e-4)


def test_crown_ibp_with_all_of_its_lines_is_the_loss_of_linear_bounds():
    model, x, y, _ = dense_net()
    expected = cross_entropy(worst_by_lines(model, certified.around(x, 0.05), y, 4), y)
    assert objective("crown_ibp(0.05, beta=1)", model, x, y, 1.0) == pytest.approx(expected, rel=1e-4)


def test_eps_waits_grows_smoothly_and_stays():
    t = np.linspace(0, 1, 1001)
    grown = np.array(certified.growth(jnp.asarray(t), 0.1, 0.4))
    assert (grown[t <= 0.1] == 0).all() and np.allclose(grown[t >= 0.5], 1)
    np.testing.assert_allclose(grown[200], 0.25 / 3.25, rtol=1e-4)  # a quarter of the ramp: m / (m + 4 (1 - m))
    slopes = np.diff(grown) / np.diff(t)
    assert (slopes >= -1e-3).all() and np.abs(np.diff(slopes[:499])).max() < 0.3
    np.testing.assert_allclose(slopes[205:495], slopes[300], rtol=2e-2)


def test_regularisers_against_their_definition():
    rng = np.random.default_rng(3)
    low = [rng.normal(size=(4, 6)), rng.normal(size=(4, 5)) + 1]
    high = [a + rng.uniform(0.1, 1, a.shape) for a in low]
    region = certified.around(jnp.full((4, 3), 0.5), 0.1)
    tight, even = 0.0, 0.0
    for a, b in zip(low, high, strict=True):
        centre = (a + b) / 2
        tight += max(0.5 - 0.2 / (b - a).mean(), 0) / (0.5 * 2)
        for size in (np.abs(centre), (centre - centre.mean()) ** 2):
            ratio = size[a > 0].sum() / size[b < 0].sum()
            even += max(0.5 - min(ratio, 1 / ratio), 0) / (0.5 * 2)
    layers = tuple(
        Bounds(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32)) for a, b in zip(low, high, strict=True)
    )
    assert 0 < tight and 0 < even
    assert float(certified.tightness(layers, region)) == pytest.approx(tight, rel=1e-4)
    assert float(certified.balance(layers)) == pytest.approx(even, rel=1e-4)


def test_kernels_begin_with_the_scale_at_which_intervals_keep_their_width():
    model = build_model("cnn", (28, 28, 1), 10, KEY)
    begun = build("training", "ibp").initialise(model).params
    for name, value in begun.items():
        if name.endswith("kernel"):
            inputs = np.prod(value.shape[:-1])
            assert np.sqrt(np.mean(value**2)) == pytest.approx(np.sqrt(2 * np.pi) / inputs, rel=1e-3)
        else:
            np.testing.assert_array_equal(value, model.params[name])


@lru_cache
def halves():
    rng = np.random.default_rng(0)
    y = (np.arange(128) % 2).astype(np.int32)
    x = rng.integers(0, 130, (128, 4, 4, 1), np.uint8)
    x[y == 0, :2] += 90
    x[y == 1, 2:] += 90
    return Dataset(x, y, ("above", "below"), "halves")


@lru_cache
def certified_share(defence):
    """The share of images that intervals certify at 0.1 after a short training, and the weights."""
    data, recipe = halves(), build("recipe", "adamw(epochs=30, batch_size=32, learning_rate=0.01)")
    model = build_model("mlp([12, 12])", (4, 4, 1), 2, KEY)
    fitted = fit(KEY, model, data, recipe, defence=build("training", defence))
    worst = certified.worst(fitted, certified.around(jnp.asarray(data.x / 255, jnp.float32), 0.1), data.y, 2)
    others = np.asarray(worst.logits)[np.arange(128), 1 - data.y]
    return float(np.mean(others < 0)), fitted.params


@pytest.mark.parametrize("defence", ["ibp(0.1)", "crown_ibp(0.1)", "sabr(0.1)", "mtl_ibp(0.1, alpha=0.5)"])
def test_certified_training_proves_more_than_standard_training(defence):
    assert certified_share(defence)[0] > certified_share("standard")[0] + 0.1


def test_the_same_key_gives_the_same_weights():
    again = certified_share.__wrapped__("mtl_ibp(0.1, alpha=0.5)")[1]
    for name, value in certified_share("mtl_ibp(0.1, alpha=0.5)")[1].items():
        np.testing.assert_array_equal(value, again[name])


@pytest.mark.parametrize("method", METHODS)
def test_gradients_are_finite_where_boxes_have_no_width(method):
    model = oracles.tiny()[0]
    x, y = jnp.zeros((4, 8, 8, 1)), jnp.array([0, 1, 2, 3])

    def loss(params, eps):
        one = model.replace(params=model.params | params)
        defence = build("training", method).replace(eps=eps)
        return defence.objective(KEY, one, x, x, jax.vmap(one)(x), y, jnp.float32(0.0))

    for eps in (0.0, 0.1):
        gradient = jax.jit(jax.grad(loss))(weights(model), eps)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    "text, message",
    [
        ("ibp(-0.1)", "eps = -0.1 must be at least 0"),
        ("ibp(warm_up=0.7, ramp=0.5)", "at most 1 in all"),
        ("ibp(kappa=1.5)", "kappa = 1.5 must be from 0 to 1"),
        ("crown_ibp(beta=2)", "beta = 2.0 must be from 0 to 1"),
        ("sabr(share=1.1)", "share = 1.1 must be from 0 to 1"),
        ("sabr(attack=autoattack)", "give one attack"),
        ("mtl_ibp(alpha=-1)", "alpha = -1.0 must be from 0 to 1"),
        ("mtl_ibp(regularise=-1)", "regularise = -1.0 must be at least 0"),
        ("mtl_ibp(alhpa=1)", "did you mean 'alpha'"),
    ],
)
def test_wrong_arguments_are_named(text, message):
    with pytest.raises(UserError, match=message):
        canonical("training", text)
        build("training", text)
