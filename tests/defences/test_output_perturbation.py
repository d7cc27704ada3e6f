"""Output perturbation: how far one example moves the minimum, what noise is added, and what it is refused for."""

import jax
import numpy as np
import pytest
from dp_accounting import get_epsilon_gaussian

from robustbench_jax.defences.training.output_perturbation import longest, shortened
from robustbench_jax.models import build_model
from robustbench_jax.ops.regression import slope_left, softmax_minimum
from robustbench_jax.registry import build
from robustbench_jax.types import Dataset, UserError
from tests import oracles

KEY = jax.random.key(0)
SHAPE, RECIPE = (6, 6, 1), build("recipe", "sgd")
DATA = oracles.noise_images(120, SHAPE, 4)


def trained(text, model="mlp([])", data=DATA, key=KEY):
    fresh = build_model(model, SHAPE, 4, KEY)
    return build("training", text).fit(key, fresh, data, RECIPE)[0].params


def minimum(data, l2=0.05, bound=2.0):
    return softmax_minimum(shortened(data.x, bound), data.y, 4, l2, 1e-6)


def test_no_single_image_has_a_longer_gradient():
    """The bound is met at images of that length and a model that is surely wrong."""
    x = shortened(DATA.x, 2.0)
    assert np.linalg.norm(x, axis=1).max() == pytest.approx(2.0)
    rng, most = np.random.default_rng(0), 0.0
    for i in range(40):
        weights = rng.normal(size=(37, 4)) * 10.0 ** rng.integers(-1, 3)
        most = max(most, slope_left(x[i : i + 1], DATA.y[i : i + 1], weights, 0.0))
    assert 0.95 * longest(2.0) < most <= longest(2.0) * (1 + 1e-9)


def test_one_image_replaced_never_moves_the_minimum_further_than_is_said():
    """The worst of many: an image of the greatest length, with another label, against the stated distance."""
    defence, base, moved = build("training", "output_perturbation(l2=0.05, bound=2.0)"), minimum(DATA), []
    for i in range(12):
        x, y = DATA.x.copy(), DATA.y.copy()
        x[i], y[i] = 255 * (np.arange(36).reshape(SHAPE) % 2), (y[i] + 1) % 4
        moved.append(np.linalg.norm(minimum(Dataset(x, y, DATA.classes, "")) - base))
    assert 0.1 * defence.distance(120) < max(moved) <= defence.distance(120)
    assert defence.distance(120) == pytest.approx(2 * np.sqrt(2) * np.sqrt(5) * 1.01 / (120 * 0.05))


def test_the_minimum_is_one_and_without_noise_it_is_what_is_returned():
    params = trained("output_perturbation(epsilon=1e9, delta=0.0, l2=0.05, bound=2.0)")
    weights = np.concatenate([params["head/kernel"], params["head/bias"][None]])
    np.testing.assert_allclose(weights, minimum(DATA), atol=2e-3)


def noise(text, count):
    """Weights less the minimum, of training with so many keys."""
    each = [trained(text, key=jax.random.key(i)) for i in range(count)]
    return np.stack([np.concatenate([p["head/kernel"], p["head/bias"][None]]) for p in each]) - minimum(DATA)


def test_gaussian_noise_has_the_deviation_that_the_distance_asks_for():
    text = "output_perturbation(epsilon=1.5, delta=1e-4, l2=0.05, bound=2.0)"
    defence, found = build("training", text), noise(text, 20)
    promised = defence.guarantee(RECIPE, 120)
    assert found.std() == pytest.approx(promised.noise, rel=0.05) and (promised.epsilon, promised.delta) == (1.5, 1e-4)
    assert get_epsilon_gaussian(promised.noise / defence.distance(120), 1e-4) == pytest.approx(1.5, rel=1e-6)


def test_noise_without_a_delta_has_the_published_density():
    """Its length is gamma distributed, with as many degrees as there are weights."""
    text = "output_perturbation(epsilon=1.0, delta=0.0, l2=0.05, bound=2.0)"
    defence, found = build("training", text), noise(text, 30)
    lengths, scale = np.linalg.norm(found.reshape(30, -1), axis=1), defence.distance(120)
    assert lengths.mean() == pytest.approx(148 * scale, rel=0.05)
    assert lengths.std() == pytest.approx(np.sqrt(148) * scale, rel=0.5)
    assert defence.guarantee(RECIPE, 120).delta == 0.0 and "exponential" in defence.guarantee(RECIPE, 120).terms


def test_more_images_or_a_stronger_penalty_need_less_noise():
    one, more, stronger = (
        build("training", f"output_perturbation(l2={l2})").guarantee(RECIPE, n).noise
        for l2, n in ((0.1, 100), (0.1, 200), (0.2, 100))
    )
    assert more == stronger == pytest.approx(one / 2)


@pytest.mark.parametrize("model", ["mlp([8])", "cnn"])
def test_other_architectures_are_refused(model):
    with pytest.raises(UserError, match=r"only a convex loss has a known distance; take the model 'mlp\(\[\]\)'"):
        fresh = build_model(model, (8, 8, 1), 4, KEY)
        build("training", "output_perturbation").fit(KEY, fresh, oracles.noise_images(20, (8, 8, 1), 4), RECIPE)


def test_a_minimum_that_was_not_reached_is_refused(monkeypatch):
    from robustbench_jax.defences.training import output_perturbation

    monkeypatch.setattr(output_perturbation, "softmax_minimum", lambda *given: np.zeros((37, 4)))
    with pytest.raises(UserError, match="a gradient of .* is left, above"):
        trained("output_perturbation(l2=0.05)")


@pytest.mark.parametrize(
    "text, message",
    [
        ("output_perturbation(epsilon=0)", "epsilon = 0.0 must be greater than 0"),
        ("output_perturbation(l2=-1)", "l2 = -1.0 must be greater than 0"),
        ("output_perturbation(delta=1)", "delta = 1.0 must be at least 0 and below 1"),
        ("output_perturbation(bound=0)", "bound = 0.0 must be greater than 0"),
    ],
)
def test_wrong_arguments_are_named(text, message):
    with pytest.raises(UserError, match=message):
        build("training", text)
