"""The certificate of bagged models: exact shares by enumeration, the published formula, and a trained ensemble."""

import itertools

import jax
import numpy as np
import pytest

from robustbench_jax.certify.bagging import Bagging, needed
from robustbench_jax.models import build_model, files
from robustbench_jax.ops.judge import classify
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import build
from robustbench_jax.types import UserError
from tests import oracles

KEY = jax.random.key(0)
RECIPE = build("recipe", "sgd(epochs=1, batch_size=8, learning_rate=0.1)")


def shares(values, draws, learner):
    """[2]: how often a learner, a function of `draws` values, votes for either class, over all possible draws."""
    votes = [learner(bag) for bag in itertools.product(values, repeat=draws)]
    return np.bincount(votes, minlength=2) / len(votes)


@pytest.mark.parametrize("seed", range(6))
def test_no_poisons_within_the_radius_change_the_class_of_all_possible_models(seed):
    """Five numbers, three draws; the learner votes for class 0 unless its draws sum to more than a threshold."""
    rng, draws, met = np.random.default_rng(seed), 3, 0
    values = list(rng.integers(0, 4, 5))
    threshold = int(rng.integers(8, 12))

    def learner(bag):
        return int(sum(bag) > threshold)

    clean = shares(values, draws, learner)
    top = int(clean.argmax())
    radius = int(np.searchsorted(needed(5, draws), clean[top] - clean[1 - top] - 1e-9)) - 1
    worst = (-100, 100)
    for added, removed, changed in itertools.product(range(3), repeat=3):
        if not 0 < added + removed + changed <= radius or removed + changed > 5:
            continue
        for rows in itertools.combinations(range(5), removed + changed):
            kept = [v for i, v in enumerate(values) if i not in rows]
            for new in itertools.product(worst, repeat=added + changed):
                assert shares(kept + list(new), draws, learner).argmax() == top
                met += 1
    assert radius == 0 or met


def test_the_gap_that_is_needed_is_the_published_one_for_changed_images():
    """Theorem 1 with n' = n: r / n poisons need a gap of 2 - 2 (1 - r / n)^k; more where adding is worse."""
    needs = needed(1000, 20)
    r = np.arange(len(needs))
    assert needs[0] == 0 and np.all(np.diff(needs) > 0) and needs[-1] >= 1
    assert np.all(needs >= 2 - 2 * (1 - r / 1000) ** 20 - 1e-12)


def test_the_votes_bounds_hold_for_all_classes_at_once():
    rng, rule, truth = np.random.default_rng(0), Bagging(alpha=0.1), np.array([0.5, 0.3, 0.2])
    wrong = 0
    for _ in range(300):
        counts = rng.multinomial(60, truth)
        top = int(counts.argmax())
        real = truth[top] - max(np.delete(truth, top))
        wrong += rule.gap(counts, top) > real
    assert wrong / 300 <= 0.1
    assert rule.gap(np.array([60, 0, 0]), 0) > 0.7


def data(count=120):
    return oracles.noise_images(count, (4, 4, 1), 3, 0)


def trained(text="bagged(models=40, draws=20, steps=10)"):
    model = build_model("mlp([])", (4, 4, 1), 3, KEY)
    return build("training", text).fit(KEY, model, data(), RECIPE)[0]


def test_bags_do_not_depend_on_the_images_and_a_file_says_how_they_were_drawn(tmp_path):
    model = trained()
    assert (model.net.models, model.net.draws, model.net.examples) == (40, 20, 120)
    files.save(tmp_path / "m", model, files.describe(model, "mlp([])", (4, 4, 1), 3))
    loaded = files.load(tmp_path / "m")[0]
    assert loaded.net == model.net
    np.testing.assert_array_equal(classify(loaded, data().x), classify(model, data().x))


def test_what_is_certified_is_right_and_has_a_radius():
    model, images = trained(), data()
    found = build("certifier", "bagging(alpha=0.2)").certify(
        KEY, model, images.x, images.y, build("budget", "count(1)"), ids=np.arange(120), runtime=Runtime()
    )
    assert found.certified.any() and np.all(found.prediction[found.certified] == images.y[found.certified])
    assert np.all(found.radius[found.certified] >= 1) and np.all(found.radius[found.prediction != images.y] == -1)
    np.testing.assert_array_equal(found.prediction, classify(model, images.x))


@pytest.mark.parametrize(
    "certifier, made_by, message",
    [
        ("bagging", "partitioned(partitions=4, steps=2)", "bagging certifies what defence bagged trained"),
        ("deep_partition", "bagged(models=4, draws=5, steps=2)", "deep_partition certifies what defence partitioned"),
    ],
)
def test_an_ensemble_of_another_kind_is_refused(certifier, made_by, message):
    images, budget = data(), build("budget", "count(1)")
    with pytest.raises(UserError, match=message):
        build("certifier", certifier).certify(
            KEY, trained(made_by), images.x, images.y, budget, ids=np.arange(120), runtime=Runtime()
        )


@pytest.mark.parametrize(
    "kind, text, message",
    [
        ("certifier", "bagging(alpha=0)", "bagging: alpha = 0.0 must be above 0 and below 1"),
        ("training", "bagged(models=0)", "bagged: models = 0 must be greater than 0"),
    ],
)
def test_wrong_arguments_are_named(kind, text, message):
    with pytest.raises(UserError, match=message):
        build(kind, text)
