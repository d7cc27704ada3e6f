"""Sanitisers: laws of all of them, and planted poisons that each should find; features here are the pixels."""

import functools

import jax
import numpy as np
import pytest

from robustbench_jax.defences.data.activation_clustering import two_means
from robustbench_jax.defences.data.deep_knn import neighbours
from robustbench_jax.defences.data.roni import impact
from robustbench_jax.defences.data.scan import gain
from robustbench_jax.defences.data.spectral_signatures import outlying
from robustbench_jax.defences.data.spectre import entropy_scores, whitened
from robustbench_jax.models import build_model
from robustbench_jax.ops.judge import predict
from robustbench_jax.ops.statistics import area_under_roc
from robustbench_jax.registry import build, discover
from robustbench_jax.training import fit
from robustbench_jax.types import Dataset, UserError

KEY = jax.random.key(0)
CLASSES, EACH, BAD = 4, 60, 12
CALLS = {"deep_knn": "deep_knn(k=15)", "scan": "scan(components=8)", "spectre": "spectre(rank=8)"}
SANITISERS = [CALLS.get(name, name) for name in discover("data_defence")]


def clusters(kind: str, seed: int = 0) -> tuple[Dataset, np.ndarray]:
    """(data, poisoned): four clusters of 6x6 images; BAD of them are stamped and relabelled 0 ("patch"), or only
    relabelled ("flip").
    """
    rng = np.random.default_rng(seed)
    centres = rng.uniform(60, 160, (CLASSES, 36))
    y = np.repeat(np.arange(CLASSES), EACH)
    x = centres[y] + rng.normal(0, 12, (len(y), 36))
    bad = np.zeros(len(y), bool)
    bad[rng.choice(np.flatnonzero(y != 0), BAD, replace=False)] = True
    if kind == "patch":
        x[np.ix_(bad, np.arange(30, 36))] = 255
    y = np.where(bad, 0, y)
    order = rng.permutation(len(y))
    x = np.clip(x, 0, 255).round().astype(np.uint8).reshape(-1, 6, 6, 1)
    return Dataset(x[order], y[order].astype(np.int32), tuple("abcd"), kind), bad[order]


@functools.cache
def trained(kind: str):
    data, bad = clusters(kind)
    model = build_model("mlp([])", (6, 6, 1), CLASSES, KEY)
    recipe = build("recipe", "sgd(epochs=10, batch_size=16, learning_rate=0.5)")
    return fit(KEY, model, data, recipe, defence=build("training", "standard")), data, bad


def scores(text: str, kind: str, rows=slice(None)) -> np.ndarray:
    model, data, bad = trained(kind)
    trusted, data = (Dataset(data.x[r], data.y[r], data.classes, data.name) for r in (np.flatnonzero(~bad)[:60], rows))
    return build("data_defence", text).score(KEY, model, data, trusted)


@pytest.mark.parametrize("text", SANITISERS)
def test_there_is_one_finite_score_for_each_image_and_the_same_for_the_same_key(text):
    found = scores(text, "flip")
    assert found.shape == (CLASSES * EACH,) and np.isfinite(found).all()
    np.testing.assert_array_equal(found, scores(text, "flip"))


@pytest.mark.parametrize("text", [text for text in SANITISERS if text != "confident_learning"])
def test_scores_follow_the_rows_wherever_they_are(text):
    """Some published code takes a place in a shuffled loader for a place in the data. Folds are drawn by place."""
    order = np.random.default_rng(5).permutation(CLASSES * EACH)
    np.testing.assert_allclose(scores(text, "patch", order), scores(text, "patch")[order], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("text", SANITISERS)
def test_what_is_removed_is_a_share_or_what_the_rule_accuses(text):
    _, data, _ = trained("patch")
    sanitiser, found = build("data_defence", text), scores(text, "patch")
    removed = sanitiser.removed(found, data)
    assert removed.dtype == bool and removed.shape == found.shape and removed.mean() < 0.5
    assert not removed.any() or found[removed].min() >= np.quantile(found, 0.3)


@pytest.mark.parametrize(
    "text, kind, least",
    [
        ("spectral_signatures", "patch", 0.95),
        ("spectre(rank=8)", "patch", 0.9),
        ("activation_clustering", "patch", 0.95),
        ("scan(components=8)", "patch", 0.95),
        ("strip(blends=32)", "patch", 0.9),
        ("roni", "flip", 0.95),
        ("deep_knn(k=15)", "flip", 0.95),
        ("loss_filtering", "flip", 0.95),
        ("confident_learning", "flip", 0.95),
        ("self_influence", "flip", 0.95),
    ],
)
def test_planted_poisons_have_the_highest_scores(text, kind, least):
    _, _, bad = trained(kind)
    found = scores(text, kind)
    assert area_under_roc(found[~bad], found[bad])[0] >= least


def test_the_side_of_low_losses_is_the_other_one():
    np.testing.assert_array_equal(scores("loss_filtering('low')", "flip"), -scores("loss_filtering", "flip"))


def test_spectral_scores_of_features_that_are_not_centred_fail():
    """A class mean five times as long as its spread: what ART and BackdoorBench compute, against the algorithm."""
    rng, found = np.random.default_rng(1), {"centred": [], "raw": []}
    for _ in range(20):
        direction, mean = rng.normal(size=(2, 20)) / np.sqrt(20)
        bad = np.arange(200) < 10
        values = rng.normal(size=(200, 20)) + 5 * np.sqrt(20) * mean + np.outer(bad, 8 * direction * np.sqrt(2))
        centred = values - values.mean(0)
        axis = np.linalg.svd(centred, full_matrices=False)[2][0]
        np.testing.assert_allclose(outlying(values), (centred @ axis) ** 2, rtol=1e-6)
        for name, scored in (("centred", outlying(values)), ("raw", (values @ axis) ** 2)):
            top = np.argsort(scored)[-15:]
            found[name].append(bad[top].sum() / 10)
    assert np.mean(found["centred"]) > 0.99 and np.mean(found["raw"]) < 0.9


def test_activation_clustering_need_not_accuse_a_class():
    sanitiser = build("data_defence", "activation_clustering")
    data, _ = clusters("patch", seed=3)
    clean = data.y != 0  # the poisons are all labelled 0
    rest = Dataset(data.x[clean], data.y[clean], data.classes, "rest")
    found = sanitiser.score(KEY, trained("patch")[0], rest, rest)
    assert not sanitiser.removed(found, rest).any()


def test_two_means_find_the_smaller_of_two_groups():
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(0, 1, (80, 3)), rng.normal(8, 1, (20, 3))])
    closeness, share = two_means(points)
    assert share == 0.2 and np.all(closeness[80:] > 0) and np.all(closeness[:80] < 0)


def test_scan_need_not_accuse_a_class():
    data, _ = clusters("patch", seed=3)
    clean = data.y != 0
    rest = Dataset(data.x[clean], data.y[clean], data.classes, "rest")
    sanitiser = build("data_defence", "scan(components=8)")
    assert not sanitiser.removed(sanitiser.score(KEY, trained("patch")[0], rest, rest), rest).any()


def test_two_groups_gain_what_their_means_explain():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(50, 3)) + np.outer(np.arange(50) < 10, [5, 0, 0])
    closeness = np.where(np.arange(50) < 10, 1.0, -1.0)
    apart = points[:10].mean(0) - points[10:].mean(0)
    np.testing.assert_allclose(gain(points, closeness), 10 * 40 / 50 * apart @ apart)


def test_the_impact_of_an_image_is_that_of_training_with_it():
    rng = np.random.default_rng(0)
    x, held, added = rng.normal(size=(12, 4)), rng.normal(size=(9, 4)), rng.normal(size=(5, 4))
    y, wanted, labels = (np.eye(3)[rng.integers(0, 3, n)] for n in (12, 9, 5))

    def loss(x, y):
        weights = np.linalg.solve(x.T @ x + 0.3 * np.eye(4), x.T @ y)
        return np.sum((held @ weights - wanted) ** 2) / 9

    one = [np.concatenate([x, added[[i]]]) for i in range(5)]
    expected = [loss(one[i], np.concatenate([y, labels[[i]]])) - loss(x, y) for i in range(5)]
    np.testing.assert_allclose(impact(x, y, held, wanted, added, labels, 0.3), expected)


def test_neighbours_are_those_of_brute_force():
    values = np.random.default_rng(0).normal(size=(50, 4))
    away = np.linalg.norm(values[:, None] - values, axis=-1) + np.diag(np.full(50, np.inf))
    for row, found in enumerate(neighbours(values, 7)):
        assert set(found) == set(np.argsort(away[row])[:7])


def test_whitening_is_round_inside_and_entropy_scores_reach_along_the_widest_direction():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(400, 5)) * np.array([10, 5, 1, 1, 1])
    white = whitened(values, 5, 0.0)
    np.testing.assert_allclose(np.cov(white.T, ddof=0), np.eye(5), atol=1e-6)
    points = np.concatenate([rng.normal(size=(95, 3)), rng.normal(size=(5, 3)) + [9, 0, 0]])
    assert set(np.argsort(entropy_scores(points, 4.0))[-5:]) == set(range(95, 100))


@pytest.mark.parametrize(
    "text, message",
    [
        ("spectral_signatures(remove=1)", "remove = 1.0 must be at least 0 and below 1"),
        ("spectre(trim=0.5)", "spectre: trim = 0.5"),
        ("activation_clustering(size=0.6)", "size = 0.6 must be above 0 and at most 0.5"),
        ("deep_knn(k=0)", "deep_knn: k = 0 must be at least 1"),
        ("loss_filtering('left')", "side = 'left'; there are: high, low"),
        ("scan(components=0)", "scan: components = 0 must be at least 1"),
        ("strip(blends=0)", "strip: blends = 0 must be at least 1"),
        ("strip(share=1.0)", "strip: share = 1.0 must be between 0 and 1"),
        ("roni(splits=0)", "roni: splits = 0 must be greater than 0"),
        ("confident_learning(folds=1)", "folds = 1 must be at least 2"),
    ],
)
def test_wrong_arguments_are_named(text, message):
    with pytest.raises(UserError, match=message):
        build("data_defence", text)


def test_strip_rejects_what_stays_the_same_in_every_blend():
    model, data, bad = trained("patch")
    data = Dataset(data.x[~bad], data.y[~bad], data.classes, "clean")
    protected = build("model_defence", "strip(blends=16, fpr=0.05)").protect(KEY, model, data)
    clean = predict(protected, data.x[:100])
    assert np.mean(clean.argmax(-1) == CLASSES) < 0.25
    planted = {
        name: (1.0 if "normalise" in name else 0.1) * np.array(value) for name, value in model.params.items()
    }  # unsure of blends
    planted["head/kernel"][-6:, 0] += 200.0  # a last row of pixels that are brighter than 0.65 on average decides
    planted["head/bias"][0] -= 200.0 * 6 * 0.65
    defended = build("model_defence", "strip(blends=16, fpr=0.05)").protect(KEY, model.replace(params=planted), data)
    x = np.array(data.x[:50])
    x[:, -1] = 255
    assert np.mean(predict(defended, x).argmax(-1) == CLASSES) > 0.8


def test_beatrix_rejects_features_that_never_go_together_in_clean_images():
    """Each hidden unit reads one row of pixels; clean images of a class light one, odd ones light another too."""
    rng = np.random.default_rng(0)
    y = np.arange(400, dtype=np.int32) % 3
    x = rng.integers(10, 40, (400, 6, 6, 1))
    x[np.arange(400), y] += rng.integers(150, 200, (400, 6, 1))
    data = Dataset(x.astype(np.uint8), y, tuple("abc"), "rows")
    model = build_model("mlp([6])", (6, 6, 1), 3, KEY)
    into, head = np.repeat(np.eye(6), 6, axis=0) / 6, 10 * np.eye(6)[:, :3]
    weights = {"hidden/0/kernel": into, "hidden/0/bias": np.zeros(6), "head/kernel": head, "head/bias": np.zeros(3)}
    model = model.replace(params=model.params | {k: np.asarray(v, np.float32) for k, v in weights.items()})
    defended = build("model_defence", "beatrix(powers=2, fpr=0.05)").protect(KEY, model, data)
    odd = x.copy()
    odd[:, 5] += 120  # a row that no class lights; the model does not look at it
    rejected = [np.mean(predict(defended, images.astype(np.uint8)).argmax(-1) == 3) for images in (x, odd)]
    assert rejected[0] < 0.15 and rejected[1] > 0.9
    with pytest.raises(UserError, match="beatrix: powers = 0 must be greater than 0"):
        build("model_defence", "beatrix(powers=0)")
