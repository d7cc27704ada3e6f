"""Certificates of labels: every world of few labels enumerated, the published radius, and regression anew."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.certify.label_flips import _votes, allowed_failures, fewest
from robustbench_jax.models import build_model, files
from robustbench_jax.models.features import features_of, logits_of
from robustbench_jax.ops.judge import classify
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import build
from robustbench_jax.types import Dataset, UserError
from tests import oracles

KEY = jax.random.key(0)
RECIPE = build("recipe", "sgd(epochs=1, batch_size=8)")


def world(seed, images=7, classes=3):
    """(influences [N], labels [N]) of one image; the labels agree with the largest influences."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=images) + 0.8, np.where(rng.uniform(size=images) < 0.7, 0, rng.integers(0, classes, images))


def classes_of(influence, labels, classes=3):
    """int [L] of labels [L, N]."""
    return np.argmax(np.stack([(labels == c) @ influence for c in range(classes)], 1), 1)


def flipped(labels, count, classes=3):
    """[L, N]: all labels that differ from these in so many places at most."""
    every = np.array(list(itertools.product(range(classes), repeat=len(labels))))
    return every[np.sum(every != labels, 1) <= count]


@pytest.mark.parametrize("seed", range(8))
def test_the_fewest_flips_are_the_fewest_of_all_that_there_are(seed):
    influence, labels = world(seed)
    top, flips = fewest(influence, labels, 3)
    assert top == classes_of(influence, labels[None])[0]
    assert np.all(classes_of(influence, flipped(labels, flips - 1)) == top)
    assert np.any(classes_of(influence, flipped(labels, flips)) != top)


def shares(influence, labels, q, classes=3):
    """[C]: how likely the noise votes for each class; every noise there is."""
    every = np.array(list(itertools.product(range(classes), repeat=len(labels))))
    kept = np.sum(every == labels, 1)
    likely = (1 - q) ** kept * (q / (classes - 1)) ** (len(labels) - kept)
    return np.bincount(classes_of(influence, every), likely, classes)


@pytest.mark.parametrize("seed", range(8))
def test_the_votes_bound_holds_and_no_flips_within_the_radius_change_the_vote(seed):
    """The radius of the votes as they are, all of them enumerated, before and after all flips there are."""
    q = 0.15
    influence, labels = world(seed)
    exact = shares(influence, labels, q)
    top, log_failure = _votes(jnp.asarray(influence[None], jnp.float32), jnp.asarray(labels), q, 3)
    assert 1 - exact[int(top[0])] <= np.exp(float(log_failure[0])) * 1.001
    allowed = np.exp(allowed_failures(q, 3, len(labels)))
    best = int(exact.argmax())
    radius = int(np.sum(allowed > 1 - exact[best])) - 1
    for other in flipped(labels, min(radius, 2)) if radius > 0 else ():
        assert shares(influence, other, q)[best] > 0.5


def test_some_votes_survive_a_flip():
    influence, labels = np.ones(7), np.zeros(7, int)
    assert shares(influence, labels, 0.15)[0] > 1 - np.exp(allowed_failures(0.15, 3, 7)[1])
    assert min(shares(influence, other, 0.15)[0] for other in flipped(labels, 1)) > 0.5


def test_a_worst_vote_is_met_exactly():
    """One image whose label alone decides: before, noise says the new label with q / (C - 1), after with 1 - q."""
    before, after = 0.3 / 2, 0.7
    assert np.exp(allowed_failures(0.3, 3, 1)) == pytest.approx([0.5, 0.5 / after * before])


def test_never_less_is_certified_than_by_the_papers_bound_for_two_classes():
    """r <= log(4 p (1 - p)) / (2 (1 - 2 q) log(q / (1 - q)))."""
    for q in (0.1, 0.3, 0.45):
        allowed = allowed_failures(q, 2, 1500)
        for failure in (0.2, 1e-3, 1e-6, 1e-12):
            ours = int(np.sum(allowed > np.log(failure))) - 1
            paper = np.log(4 * failure * (1 - failure)) / (2 * (1 - 2 * q) * np.log(q / (1 - q)))
            assert ours >= int(np.floor(paper))


def data(count=150, seed=0):
    made = oracles.noise_images(count, (5, 5, 1), 3, seed)
    x = np.array(made.x) // 2
    x[np.arange(count), 0, made.y] = 255
    return Dataset(x, made.y, made.classes, "marked")


def trained(some):
    model = build_model("mlp([40])", (5, 5, 1), 3, KEY)
    return build("training", "least_squares(penalty=0.1)").fit(KEY, model, some, RECIPE)[0]


def certify(model, test, name, count=1):
    options = {"ids": np.arange(len(test)), "runtime": Runtime()}
    budget = build("budget", f"flips({count})")
    return build("certifier", name).certify(KEY, model, test.x, test.y, budget, **options)


def test_the_last_layer_is_that_of_ridge_regression_and_influences_add_up_to_it():
    some, model = data(), trained(data())
    rows = np.concatenate([features_of(model, some.x), np.ones((150, 1))], 1)
    weight = 0.1 * np.mean(np.sum(rows**2, 0)) * np.eye(41)
    expected = np.linalg.solve(rows.T @ rows + weight, rows.T @ np.eye(3)[some.y])
    np.testing.assert_allclose(logits_of(model, some.x), rows @ expected, atol=1e-4)
    spoken = np.asarray(model.net.influence(model.params, jnp.asarray(some.x[3] / 255, jnp.float32)))
    np.testing.assert_allclose(np.eye(3)[some.y].T @ spoken, logits_of(model, some.x[3:4])[0], atol=1e-4)


def test_regression_anew_on_flipped_labels_keeps_every_certified_class_and_the_worst_flips_do_not():
    some, test, rng = data(), data(60, seed=4), np.random.default_rng(0)
    before = trained(some)
    found = certify(before, test, "label_flips")
    sure = np.flatnonzero(found.radius >= 3)
    assert len(sure) > 5
    for _ in range(5):
        y = np.array(some.y)
        rows = rng.choice(150, 3, replace=False)
        y[rows] = (y[rows] + rng.integers(1, 3, 3)) % 3
        after = trained(Dataset(some.x, y, some.classes, some.name))
        assert np.all(classify(after, test.x)[sure] == test.y[sure])
    row = sure[np.argmin(found.radius[sure])]
    spoken = np.asarray(before.net.influence(before.params, jnp.asarray(test.x[row] / 255, jnp.float32)))
    own, broken = int(test.y[row]), []
    for other in (c for c in range(3) if c != own):
        most = np.where(some.y == own, 2 * (spoken > 0), np.where(some.y == other, 2 * (spoken < 0), 1))
        rows = np.argsort(-most * np.abs(spoken))[: int(found.radius[row]) + 2]
        y = np.array(some.y)
        y[rows] = np.where(spoken[rows] > 0, other, own)
        broken.append(classify(trained(Dataset(some.x, y, some.classes, some.name)), test.x[[row]])[0] != own)
    assert any(broken)


def test_the_smoothed_vote_certifies_some_and_abstains_rather_than_guess():
    test, model = data(60, seed=4), trained(data())
    found = certify(model, test, "label_flip_smoothing(q=0.2)")
    assert found.certified.any() and np.all(found.prediction[found.certified] == test.y[found.certified])
    assert np.all(found.radius[found.prediction == -1] == -1)
    assert build("certifier", "label_flip_smoothing").own_prediction and found.failure == 0


def test_a_readout_is_read_back_as_it_was_written(tmp_path):
    model = trained(data())
    files.save(tmp_path / "m", model, files.describe(model, "mlp([40])", (5, 5, 1), 3))
    loaded, description = files.load(tmp_path / "m")
    assert description["readout"] == {"examples": 150} and loaded.net == model.net
    np.testing.assert_array_equal(classify(loaded, data().x), classify(model, data().x))


def test_wrong_things_are_named():
    model, some = oracles.tiny()
    with pytest.raises(UserError, match="label_flips certifies what defence least_squares trained"):
        certify(model, some, "label_flips")
    for text, message in (
        ("label_flip_smoothing(q=0)", "q = 0.0 must be above 0 and below 1"),
        ("label_flip_smoothing(q=0.7)", "q = 0.7 must be below 0.666667 for 3 classes"),
    ):
        with pytest.raises(UserError, match=message):
            certify(trained(data()), data(), text)
    with pytest.raises(UserError, match="least_squares: penalty = 0.0 must be greater than 0"):
        build("training", "least_squares(penalty=0)")
