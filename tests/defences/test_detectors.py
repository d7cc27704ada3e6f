"""Detectors at serving: their scores against closed forms and NumPy, their thresholds, and what an attack may see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import median_filter
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax
from scipy.stats import multivariate_normal

from robustbench_jax.defences.serving import detector as shared
from robustbench_jax.defences.serving.detector import Detector, Score, exchange, threshold
from robustbench_jax.defences.serving.kernel_density import likeliest
from robustbench_jax.defences.serving.lid import LARGEST, dimensionality, regression
from robustbench_jax.defences.serving.magnet import divergence
from robustbench_jax.defences.serving.mahalanobis import gaussians
from robustbench_jax.keys import stream
from robustbench_jax.models import build_model
from robustbench_jax.models.features import each, features
from robustbench_jax.ops import judge
from robustbench_jax.ops.drive import drive
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.judge import classify, predict
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import build
from robustbench_jax.threats import detection, evasion
from robustbench_jax.types import Dataset, UserError, record

KEY = jax.random.key(0)
FEW = [
    "feature_squeezing([bit_depth(3), median_filter(2)], fpr=0.1)",
    "mahalanobis(fpr=0.1)",
    "kernel_density(fpr=0.1)",
    "lid(4, batch=16, budget=linf(0.1), fpr=0.1)",
    "magnet(recipe=adamw(epochs=2, batch_size=16, learning_rate=0.01), width=2, fpr=0.1)",
]
PREPARED = "mahalanobis(0.01, fpr=0.1)"
ERROR = "magnet(temperature=None, reform=False, recipe=adamw(epochs=2, batch_size=16), width=2, fpr=0.1)"
SHORT = [*FEW, PREPARED, ERROR]


def blocks(seed: int = 0, count: int = 200) -> Dataset:
    """4x4 images: the upper half is darker than 1/2 in class 0 and brighter in class 1, by anything up to 0.2; the
    lower half is close to 1/2 in both.
    """
    rng = np.random.default_rng(seed)
    upper, lower = rng.uniform(0.3, 0.7, (count, 1, 1, 1)), rng.normal(0.5, 0.01, (count, 1, 1, 1))
    x = np.concatenate([np.repeat(np.repeat(part, 2, 1), 4, 2) for part in (upper, lower)], 1)
    x = np.clip(np.round(255 * (x + rng.normal(0, 0.004, x.shape))), 0, 255).astype(np.uint8)
    return Dataset(x, (x[:, :2].mean((1, 2, 3)) > 127.5).astype(np.int32), ("dark", "bright"), "blocks")


@pytest.fixture(scope="module")
def model():
    """Its two features are the means of the halves, and both count alike in its logits."""
    made = build_model("mlp([2])", (4, 4, 1), 2, KEY)
    halves = np.repeat(np.eye(2), 8, axis=0) / 8
    weights = {"hidden/0/kernel": halves, "head/kernel": [[-10.0, 10.0], [-10.0, 10.0]], "head/bias": [10.0, -10.0]}
    return made.replace(params=made.params | {k: np.asarray(v, np.float32) for k, v in weights.items()})


@pytest.fixture(scope="module")
def data():
    return blocks()


@pytest.fixture(scope="module")
def protected(model, data):
    made = {}

    def protect(text):
        if text not in made:
            made[text] = build("model_defence", text).protect(KEY, model, data)
        return made[text]

    return protect


def apart(text, data):
    """The images that the score and the threshold of a detector are fitted on."""
    return shared._apart(stream(KEY, "held out"), build("model_defence", text), data)


def scores(guarded, x):
    """From the detector alone: the fitted score of images x."""
    inner, fitted = guarded.params
    return each(shared._measured, guarded.replace(net=guarded.net.inner, params=inner), x, fitted.score)[0]


@pytest.mark.parametrize("text", [*FEW, PREPARED])
def test_a_detector_rejects_its_stated_share_of_the_images_of_its_threshold(text, protected, data):
    held_out = apart(text, data)[1]
    assert len(held_out) == 40
    assert (classify(protected(text), held_out.x) == 2).sum() == 4


@pytest.mark.parametrize("text", FEW)
def test_classes_and_logits_of_the_model_stay_as_they_are(text, protected, model, data):
    got = predict(protected(text), data.x)
    inner = protected(text).net.inner
    same = model if inner == model.net else model.replace(net=inner, params=protected(text).params[0])
    np.testing.assert_allclose(got[:, :-1], predict(same, data.x), atol=1e-5)
    excess = protected(text).params[1]
    np.testing.assert_allclose(
        got[:, -1] - got[:, :-1].max(-1),
        excess.scale * (scores(protected(text), data.x) - excess.limit),
        rtol=1e-3,
        atol=2e-5 * np.abs(got).max(),
    )


@pytest.mark.parametrize("text", FEW)
def test_gradients_past_a_detector_change_no_logit(text, protected, data):
    guarded = protected(text)
    past = guarded.replace(net=guarded.net.approximated)
    np.testing.assert_array_equal(predict(past, data.x), predict(guarded, data.x))


@pytest.mark.slow
@pytest.mark.parametrize("text", SHORT)
def test_gradients_of_all_logits_are_finite(text, protected, data):
    guarded = protected(text)
    for model in (guarded, guarded.replace(net=guarded.net.approximated)):
        slopes = jax.jit(jax.vmap(jax.jacrev(model)))(as_unit(data.x[:16]))
        assert np.isfinite(slopes).all() and slopes[:, -1].any()


@pytest.mark.parametrize("text", FEW)
def test_an_image_is_rejected_whatever_its_neighbours_are(text, protected, data):
    together, alone = (predict(protected(text), data.x[:40], Runtime(width=width)) for width in (64, 8))
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5 * np.abs(together).max())
    np.testing.assert_array_equal(together.argmax(-1), alone.argmax(-1))


def test_fitting_anew_compiles_nothing(protected, model, data):
    for text in FEW[1:4]:
        predict(protected(text), data.x)
        before = judge._logits._cache_size()
        again = build("model_defence", text).protect(jax.random.key(1), model, data)
        predict(again, data.x)
        assert judge._logits._cache_size() == before
        assert again.params[1].limit != protected(text).params[1].limit


def test_mahalanobis_is_the_distance_to_the_nearest_mean_under_a_shared_covariance(protected, model, data):
    seen, _ = apart(FEW[1], data)
    values, points = (each(features, model, x).astype(np.float64) for x in (seen.x, data.x))
    means = np.stack([values[seen.y == label].mean(0) for label in (0, 1)])
    covariance = np.cov((values - means[seen.y]).T, ddof=0, bias=True)
    away = points[:, None] - means
    expected = np.einsum("ncf,fg,ncg->nc", away, np.linalg.inv(covariance), away).min(1)
    np.testing.assert_allclose(scores(protected(FEW[1]), data.x), expected, rtol=1e-3, atol=1e-3)


def test_input_preprocessing_makes_the_distance_smaller_where_it_is_large(protected, data):
    plain, moved = (scores(protected(text), data.x) for text in (FEW[1], PREPARED))
    far = plain > np.quantile(plain, 0.75)  # others are so near that the step goes past the mean
    assert far.sum() == 50 and (moved[far] < plain[far]).mean() > 0.9


def test_directions_in_which_no_image_varies_do_not_count():
    rng = np.random.default_rng(0)
    values = np.column_stack([rng.normal(size=(50, 2)), np.zeros(50)])
    means, whitening = gaussians(values, np.zeros(len(values), int), 1)
    np.testing.assert_allclose(whitening @ whitening.T, np.linalg.pinv(np.cov(values.T, ddof=0)), atol=1e-5)
    np.testing.assert_allclose(means[0], values.mean(0), atol=1e-6)


def test_kernel_density_is_scipys_within_the_predicted_class(model, data):
    text = "kernel_density(0.05, fpr=0.1)"
    guarded = build("model_defence", text).protect(KEY, model, data)
    seen, _ = apart(text, data)
    values, points = (each(features, model, x).astype(np.float64) for x in (seen.x, data.x[:20]))
    constant = -np.log(2 * np.pi * 0.05**2)  # of the kernel in two dimensions, which the score leaves out
    for point, label, score in zip(points, classify(model, data.x[:20]), scores(guarded, data.x[:20]), strict=True):
        density = np.mean([multivariate_normal.pdf(point, v, 0.05**2) for v in values[seen.y == label]])
        assert score == pytest.approx(constant - np.log(density), rel=1e-3, abs=1e-3)


def test_the_density_far_from_all_images_is_small_and_not_zero(protected):
    guarded = protected("kernel_density(1e-4, fpr=0.1)")
    far = np.stack([np.zeros((4, 4, 1)), np.ones((4, 4, 1))]).astype(np.float32)
    assert np.isfinite(scores(guarded, far)).all() and (classify(guarded, far) == 2).all()


def test_the_likeliest_bandwidth_is_the_one_under_which_images_are_likeliest_given_the_others():
    rng, y = np.random.default_rng(0), np.repeat([0, 1], [12, 8])
    values = np.column_stack([rng.normal(5 * y, 1), rng.normal(size=20), np.ones(20)])

    def likelihood(width):
        total = 0
        for i in range(20):
            others = values[(y == y[i]) & (np.arange(20) != i), :2]
            total += np.log(np.mean([multivariate_normal.pdf(values[i, :2], v, width**2) for v in others]))
        return total

    found = likeliest(values, y)
    assert likelihood(found) > max(likelihood(found / np.sqrt(2)), likelihood(found * np.sqrt(2)))
    assert likeliest(np.ones((6, 2)), np.zeros(6, int)) == 1


@pytest.mark.parametrize("true", [1.0, 2.5, 20.0])
def test_lid_of_distances_that_grow_as_in_a_space_of_that_dimension_is_that_dimension(true):
    """r_i = (i / k)^(1 / d): the mean of log(r_i / r_k) is that of log(i / k), over d."""
    k = 20
    radii = (np.arange(1, 41) / k) ** (1 / true)
    expected = -true / np.mean(np.log(np.arange(1, k + 1) / k))
    shuffled = np.random.default_rng(0).permutation(radii**2).astype(np.float32)
    assert float(dimensionality(jnp.asarray(shuffled), k)) == pytest.approx(expected, rel=1e-5)


def test_lid_is_finite_with_a_finite_gradient_where_neighbours_coincide():
    squares = np.float32([np.zeros(8), np.ones(8), np.r_[0, np.ones(7)]])
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(lambda s: dimensionality(s, 4))))(squares)
    assert (0 < values).all() and (values <= 1.001 * LARGEST).all() and np.isfinite(slopes).all()


def test_the_regression_over_layers_is_at_its_minimum():
    rng = np.random.default_rng(0)
    values, positive = rng.normal(5, 3, (300, 2)), rng.random(300) < 0.4
    values[positive, 1] += 4
    found = regression(values, positive)
    rows = (values - values.mean(0)) / values.std(0)
    w = found["weights"] * values.std(0)
    p = 1 / (1 + np.exp(-(values @ found["weights"] + found["bias"])))
    np.testing.assert_allclose(rows.T @ (positive - p), w, atol=0.05)  # the ridge holds the rest
    assert np.mean(positive - p) == pytest.approx(0, abs=1e-3) and w[1] > 5 * abs(w[0])


def test_lid_scores_attacked_images_higher(protected, model, data):
    guarded = protected(FEW[3])
    found = drive(KEY, build("attack", "fgsm"), model, build("budget", "linf(0.1)"), data.x, data.y)
    assert detection.area(scores(guarded, data.x), scores(guarded, found.x_adv)).value > 0.7


def test_feature_squeezing_is_the_largest_move_of_the_probabilities(protected, model, data):
    x = as_unit(data.x)
    squeezed = [np.round(x * 7) / 7, median_filter(x, (1, 2, 2, 1), mode="reflect")]
    probabilities, *others = (jax.nn.softmax(predict(model, np.float32(z)), axis=-1) for z in (x, *squeezed))
    expected = np.max([np.abs(probabilities - other).sum(-1) for other in others], axis=0)
    np.testing.assert_allclose(scores(protected(FEW[0]), data.x), expected, atol=1e-5)


def test_gradients_pass_the_squeezers(protected, data):
    guarded, x = protected("feature_squeezing([bit_depth(2)], fpr=0.1)"), as_unit(data.x)[3]
    score, model = guarded.params[1].score, guarded.twin
    own, past = (jax.jit(jax.grad(function, argnums=1))(model, x) for function in (score.__call__, score.past))
    assert np.isfinite(past).all() and not np.allclose(own, past)


def test_the_jensen_shannon_divergence_is_scipys():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 3, (2, 5, 4)).astype(np.float32)
    a[0], b[0] = [1e4, 0, 0, 0], [0, 1e4, 0, 0]
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(divergence)))(a, b)
    expected = [jensenshannon(*(softmax(np.float64(z)) for z in pair)) ** 2 for pair in zip(a, b, strict=True)]
    np.testing.assert_allclose(values, expected, atol=1e-6)
    assert values[0] == pytest.approx(np.log(2)) and np.isfinite(slopes).all()


def test_magnet_answers_of_the_reconstruction_and_measures_how_far_it_is(protected, model, data):
    guarded, x = protected(FEW[4]), as_unit(data.x)
    score = guarded.params[1].score
    reformed = predict(score.reformer.autoencoder, x).reshape(x.shape)
    plain, seen = predict(model, x), predict(model, reformed)
    np.testing.assert_allclose(predict(guarded, x)[:, :-1], seen, atol=1e-5)
    expected = np.stack([np.abs(x - reformed).mean((1, 2, 3)), jax.vmap(divergence)(plain / 10, seen / 10)], -1)
    np.testing.assert_allclose(scores(guarded, x), (expected / score.units).max(-1), rtol=1e-3, atol=1e-3)
    assert guarded.twin == model or guarded.twin.net == model.net


@pytest.mark.slow
def test_the_autoencoder_learns_its_images(model, data):
    text = "magnet(recipe=adamw(epochs=40, batch_size=32, learning_rate=0.02, weight_decay=0), noise=0.02, width=4)"
    x = as_unit(data.x)
    score = build("model_defence", text).protect(KEY, model, data).params[1].score
    error = np.mean((predict(score.reformer.autoencoder, x).reshape(x.shape) - x) ** 2)
    assert error < 0.1 * np.var(x)


def test_a_threshold_leaves_at_most_its_share_above_it():
    assert threshold(np.arange(100), 0.05) == 94.5
    assert threshold(np.arange(100), 0.29) == 70.5
    assert threshold(np.arange(10), 0.05) == 9
    tied = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
    assert [np.mean(tied > threshold(tied, fpr)) for fpr in (0.1, 0.2, 0.5, 0.6)] == [0, 0.2, 0.2, 0.6]


def test_a_unit_of_score_is_worth_as_many_logits_as_both_spread():
    rng = np.random.default_rng(0)
    margins, values = rng.normal(size=50), 1000 * rng.normal(size=50)
    assert np.std(exchange(margins, values) * values) == pytest.approx(np.std(margins))
    assert exchange(margins, np.ones(50)) == exchange(np.ones(50), values) == 1


@record
class LowerHalf(Score):
    """How far the mean of the image's lower half is from 1/2."""

    def __call__(self, model, x):
        return jnp.abs(jnp.mean(x[2:]) - 0.5)


class Watching(Detector):
    registered, fpr, images = ("model_defence", "watching"), 0.05, 200

    def fit(self, key, classifier, data):
        return LowerHalf()


def test_the_attack_that_knows_the_detector_breaks_what_the_one_that_does_not_is_caught_by(model, data):
    """Without the detector the shortest way to the other class moves both halves of the image; with it, the upper half
    alone is enough.
    """
    guarded, budget = Watching().protect(KEY, model, data), build("budget", "linf(0.25)")
    attack = build("attack", "pgd(steps=50, step_size=0.04, random_start=False)")
    right = np.flatnonzero(classify(guarded, data.x) == data.y)[:64]
    part = Dataset(data.x[right], data.y[right], data.classes, "right")
    oblivious, adaptive = (drive(KEY, attack, victim, budget, part.x, part.y) for victim in (guarded.twin, guarded))
    caught, missed = (
        detection.measure(guarded, part, np.arange(len(part)), found.x_adv, Runtime())[0]
        for found in (oblivious, adaptive)
    )
    assert oblivious.success.all() and caught["rejected_attacked"].value > 0.8
    assert adaptive.success.mean() > 0.95 and missed["rejected_attacked"].value < 0.05
    assert caught["detection_auc"].value > missed["detection_auc"].value


@pytest.mark.parametrize("text", FEW[1:3])
def test_detectors_of_features_catch_the_attack_that_does_not_know_them(text, protected, model, data):
    found = drive(
        KEY, build("attack", "pgd(steps=50, step_size=0.04)"), model, build("budget", "linf(0.25)"), *rows(data)
    )
    assert found.success.all() and (classify(protected(text), found.x_adv) == 2).mean() > 0.9


def rows(data):
    return data.x[:64], data.y[:64]


def test_the_outcome_says_how_many_images_are_rejected(protected, data):
    guarded = protected("mahalanobis")
    outcome = evasion.run(KEY, guarded, data, build("attack", "pgd(steps=3)"), build("budget", "linf(0.01)"))
    found, excess = outcome.metrics, outcome.arrays["excess"]
    right = predict(guarded, data.x)[:, :2].argmax(-1) == data.y
    np.testing.assert_array_equal(excess > 0, outcome.arrays["prediction"] == 2)
    assert found["rejected_clean"].n == right.sum()
    assert found["rejected_clean"].value == pytest.approx(np.mean(excess[right] > 0))
    after = outcome.arrays["excess_attacked"]
    assert (~np.isnan(after)).sum() == found["rejected_attacked"].n == outcome.arrays["clean_correct"].sum()
    robust, attacked = outcome.arrays["robust"], ~np.isnan(after)
    assert not (after[attacked & ~robust] > 0).any()  # what broke the model was not rejected


def test_a_chain_may_round_the_image_before_a_detector_or_the_detector_look_first(model, data):
    for text in ("chain([bit_depth(5), mahalanobis()])", "chain([mahalanobis(), bit_depth(5)])"):
        guarded = build("model_defence", text).protect(KEY, model, data)
        assert guarded.rejects and predict(guarded, data.x[:8]).shape == (8, 3) and guarded.twin.net == model.net


@pytest.mark.parametrize(
    "text, message",
    [
        ("mahalanobis(fpr=0)", "fpr = 0.0 must be between 0 and 1"),
        ("mahalanobis(-0.1)", "magnitude = -0.1 must be at least 0"),
        ("kernel_density(0)", "bandwidth = 0.0 must be greater than 0"),
        ("lid(1)", "k = 1 must be from 2 to batch = 100"),
        ("lid(attack=autoattack)", "autoattack is no single attack"),
        ("magnet(3)", "norm = 3 must be 1 or 2"),
        ("feature_squeezing([])", "needs a list of squeezers"),
        ("feature_squeezing([mahalanobis])", "mahalanobis is no squeezer"),
    ],
)
def test_wrong_arguments_are_named(text, message):
    with pytest.raises(UserError, match=message):
        build("model_defence", text)


def test_too_few_training_images_are_named(protected, model, data):
    few = Dataset(data.x[:12], np.r_[np.ones(11, np.int32), 0].astype(np.int32), data.classes, "few")
    for name in ("mahalanobis", "kernel_density"):
        with pytest.raises(UserError, match=rf"{name}: class 'dark' has [01] of the 10 images .* 2 are needed"):
            build("model_defence", name).protect(KEY, model, few)
    with pytest.raises(UserError, match="lid: 10 training images are left to fit on; batch = 100"):
        build("model_defence", "lid").protect(KEY, model, few)
    with pytest.raises(UserError, match="mahalanobis: 1 training images; at least 2"):
        build("model_defence", "mahalanobis").protect(KEY, model, data.take(1))
    with pytest.raises(UserError, match="the model rejects images already"):
        build("model_defence", "kernel_density").protect(KEY, protected("mahalanobis"), data)
