"""SmoothAdv, Consistency and MACER: their losses against NumPy in float64, their copies, and whole trainings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from robustbench_jax.models import build_model
from robustbench_jax.ops.judge import classify
from robustbench_jax.registry import build, canonical
from robustbench_jax.training import fit
from robustbench_jax.types import Classifier, Dataset, UserError
from tests import oracles

KEY = jax.random.key(0)


def logits_and_labels(copies=4, batch=6, classes=5, scale=1.0):
    rng = np.random.default_rng(1)
    logits = scale * rng.normal(size=(copies, batch, classes))
    y = logits.mean(0).argmax(1)
    y[::3] = (y[::3] + 1) % classes
    return logits, y


def objective(defence, logits, y):
    """The defence's loss of logits [copies, B, C], handed over as training does."""
    flat = jnp.asarray(logits.reshape(-1, logits.shape[-1]), jnp.float32)
    return float(build("training", defence).objective(KEY, None, None, None, flat, jnp.asarray(y), 0.5))


def test_consistency_is_cross_entropy_and_divergence_from_the_mean_and_its_entropy():
    logits, y = logits_and_labels()
    copies, mean = special.softmax(logits, -1), special.softmax(logits, -1).mean(0)
    fit = np.mean([stats.entropy(np.eye(5)[label], copies[i, b]) for i in range(4) for b, label in enumerate(y)])
    apart = np.mean([stats.entropy(mean[b], copies[i, b]) for i in range(4) for b in range(6)])
    entropy = np.mean([stats.entropy(row) for row in mean])
    found = objective("consistency(weight=7, entropy_weight=0.3)", logits, y)
    assert found == pytest.approx(fit + 7 * apart + 0.3 * entropy, rel=1e-5)
    assert objective("consistency(weight=0, entropy_weight=0)", logits, y) == pytest.approx(fit, rel=1e-5)


def test_copies_that_agree_have_no_divergence():
    logits, y = logits_and_labels(copies=1)
    same = np.repeat(logits, 3, axis=0)
    assert objective("consistency(weight=1000, entropy_weight=0)", same, y) == pytest.approx(
        objective("consistency(weight=0, entropy_weight=0)", same, y), rel=1e-4
    )


def test_macer_is_the_smoothed_cross_entropy_and_what_the_radius_lacks_where_it_is_right():
    logits, y = logits_and_labels(batch=24, scale=0.2)
    mean, sharp = special.softmax(logits, -1).mean(0), special.softmax(16 * logits, -1).mean(0)
    total, right, short = 0.0, 0, 0
    for b, label in enumerate(y):
        total -= np.log(mean[b, label])
        if sharp[b].argmax() == label:
            xi = stats.norm.ppf(sharp[b, label]) - stats.norm.ppf(np.delete(sharp[b], label).max())
            total += 12.0 * 0.5 / 2 * max(1.0 - xi, 0)
            right, short = right + 1, short + (xi < 1)
    assert 0 < short < right < len(y)
    assert objective("macer(sigma=0.5, weight=12, gamma=1)", logits, y) == pytest.approx(total / 24, rel=1e-4)


def test_macer_has_finite_gradients_where_probabilities_are_0_and_1():
    logits = jnp.asarray([[[100.0, -100.0, 0.0]], [[100.0, -100.0, 0.0]]])
    macer = build("training", "macer")

    def loss(logits):
        return macer.objective(KEY, None, None, None, logits.reshape(-1, 3), jnp.array([0]), 0.0)

    value, gradient = jax.value_and_grad(loss)(logits)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_smoothadv_trains_on_the_cross_entropy_of_every_copy():
    logits, y = logits_and_labels()
    log = special.log_softmax(logits, -1)
    expected = -np.mean([log[i, b, label] for i in range(4) for b, label in enumerate(y)])
    assert objective("smoothadv", logits, y) == pytest.approx(expected, rel=1e-5)


def test_the_perturbation_of_smoothadv_is_the_whole_radius_across_the_line(linear):
    """On a linear model every gradient has one direction: two steps of eps each, cut to eps; the box cuts nothing."""
    x, y = linear.data.x.astype(np.float32) / 255, linear.data.y
    flat = Classifier(affine_batch, linear.model.params)
    made = build("training", "smoothadv(0.1, eps=0.2, copies=3)")
    noisy = made.perturb(KEY, flat, jnp.asarray(x), jnp.asarray(y), np.arange(len(y)))
    plain = build("training", "smoothadv(0.1, eps=0, copies=3)")
    noise = plain.perturb(KEY, flat, jnp.asarray(x), jnp.asarray(y), np.arange(len(y))) - np.tile(x, (3, 1, 1, 1))
    delta = np.asarray(noisy - noise).reshape(3, len(y), -1) - x.reshape(len(y), -1)
    direction = linear.weights / np.linalg.norm(linear.weights)
    expected = 0.2 * np.where(y == 1, -1, 1)[:, None] * direction
    np.testing.assert_allclose(delta, np.broadcast_to(expected, delta.shape), atol=2e-6)
    assert np.std(noise) == pytest.approx(0.1, rel=0.05)


def affine_batch(params, x):
    return oracles.affine(params, x)


@pytest.mark.parametrize("defence", ["consistency(0.3)", "macer(0.3, copies=2)", "smoothadv(0.3, eps=0)"])
def test_copies_differ_in_their_noise_which_depends_on_ids_alone(defence):
    x, y, made = jnp.full((5, 12, 12, 1), 0.5), jnp.zeros(5, jnp.int32), build("training", defence)
    model = Classifier(oracles.affine, {"w": jnp.ones((144, 2)), "b": jnp.zeros(2)})
    copies = np.asarray(made.perturb(KEY, model, x, y, np.array([7, 3, 9, 1, 2]))).reshape(2, 5, 12, 12, 1)
    again = np.asarray(made.perturb(KEY, model, x[:2], y[:2], np.array([9, 7]))).reshape(2, 2, 12, 12, 1)
    np.testing.assert_array_equal(again, copies[:, [2, 0]])
    flat = (copies - 0.5).reshape(10, -1)
    assert flat.std() == pytest.approx(0.3, rel=0.1) and flat.min() < -0.5 and flat.max() > 0.5  # not clipped
    correlation = np.corrcoef(flat) - np.eye(10)
    assert np.abs(correlation).max() < 0.4


def test_uniform_noise_fills_its_range_evenly():
    x, ids = jnp.full((8, 20, 20, 1), 0.5), np.arange(8)
    noise = np.asarray(build("training", "uniform_noise(0.3)").perturb(KEY, None, x, None, ids)).ravel() - 0.5
    assert stats.kstest(noise, stats.uniform(-0.3 * 3**0.5, 0.6 * 3**0.5).cdf).pvalue > 0.01


@pytest.mark.parametrize("defence", ["consistency(0.2)", "macer(0.2, copies=4, gamma=2)", "smoothadv(0.2, eps=0.3)"])
def test_models_train_and_classify_noisy_images(defence):
    rng = np.random.default_rng(0)
    y = (np.arange(64) % 2).astype(np.int32)
    x = rng.integers(0, 100, (64, 4, 4, 1), np.uint8)
    x[y == 0, :2] += 120
    x[y == 1, 2:] += 120
    data = Dataset(x, y, ("above", "below"), "halves")
    recipe = build("recipe", "sgd(epochs=15, batch_size=16)")
    model = build_model("mlp([8])", (4, 4, 1), 2, KEY)
    seen = []
    fitted = fit(KEY, model, data, recipe, defence=build("training", defence), report=seen.append)
    noisy = (x / 255 + rng.normal(size=x.shape, scale=0.2)).astype(np.float32)
    assert np.mean(classify(fitted, noisy) == y) > 0.95
    assert 0 <= seen[-1].accuracy <= 1


@pytest.mark.parametrize(
    "text, message",
    [
        ("consistency(sigma=0)", "sigma = 0.0 must be greater than 0"),
        ("consistency(copies=1)", "copies = 1: give 2 or more"),
        ("consistency(weight=-1)", "weight = -1.0 must be at least 0"),
        ("macer(gamma=0)", "gamma = 0.0 must be greater than 0"),
        ("macer(weight=-1)", "weight = -1.0 must be at least 0"),
        ("macer(copies=0)", "copies = 0 must be greater than 0"),
        ("smoothadv(eps=-0.1)", "eps = -0.1 must be at least 0"),
        ("smoothadv(steps=0)", "steps = 0 must be greater than 0"),
        ("uniform_noise(0)", "sigma = 0.0 must be greater than 0"),
        ("macer(sgima=1)", "did you mean 'sigma'"),
    ],
)
def test_wrong_arguments_are_named(text, message):
    with pytest.raises(UserError, match=message):
        canonical("training", text)
        build("training", text)
