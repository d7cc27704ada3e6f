"""Certificates against poisoning: brute force over all poisons, the published formula, and training anew."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from robustbench_jax.certify.partition import DeepPartition, RunOffElection, needed
from robustbench_jax.models import build_model, files
from robustbench_jax.ops.judge import classify
from robustbench_jax.ops.partitions import buckets, offsets, parts
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import build
from robustbench_jax.types import Dataset, UserError
from tests import oracles

KEY = jax.random.key(0)
ORDERS = np.array(list(itertools.permutations(range(3))), float)  # what a poisoned model may think of three classes
RECIPE = build("recipe", "sgd(epochs=1, batch_size=8, learning_rate=0.1)")


def elected(rule, logits, shifts):
    """(class, radius) of one image from logits [M, C]."""
    prediction, radius = rule.elected(logits[None], shifts)
    return int(prediction[0]), int(radius[0])


def worlds(logits, shifts, count):
    """Every outcome of poisoning `count` buckets: their models may say anything."""
    models = len(logits)
    for chosen in itertools.combinations(range(models), count):
        hit = sorted({(b + s) % models for b in chosen for s in shifts})
        for said in itertools.product(ORDERS, repeat=len(hit)):
            poisoned = logits.copy()
            poisoned[hit] = said
            yield poisoned


@pytest.mark.parametrize("rule", [DeepPartition(), RunOffElection()], ids=["deep_partition", "run_off_election"])
@pytest.mark.parametrize("spread, models", [(1, 6), (2, 4)])
def test_no_poisons_within_the_radius_change_the_class(rule, spread, models):
    rng, met = np.random.default_rng(spread), set()
    for _ in range(25):
        logits = ORDERS[rng.integers(0, 6, models)]
        logits[: rng.integers(0, models)] = logits[0]
        shifts = offsets(models, spread)
        top, radius = elected(rule, logits, shifts)
        met.add(radius)
        for count in range(1, min(radius, 2) + 1):
            assert all(elected(rule, world, shifts)[0] == top for world in worlds(logits, shifts, count))
    assert len(met) > 1


def test_finite_aggregation_has_the_radii_of_the_published_code():
    """What FiniteAggregation_cerfity.py of github.com/wangwenxiao/FiniteAggregation (9d4ca79) says of these votes, with
    its own shifts: 80 models, each image seen by 4, the winner of a share of them that grows from image to image.
    """
    rng = np.random.default_rng(7)
    share = np.linspace(0.25, 0.95, 12)[:, None]
    votes = np.where(rng.random((12, 80)) < share, 3, rng.integers(0, 10, (12, 80)))
    top, radius = DeepPartition().elected(np.eye(10)[votes], np.array([45, 11, 61, 4]))
    assert np.all(top == 3)
    np.testing.assert_array_equal(radius, [2, 2, 3, 4, 4, 4, 6, 5, 8, 8, 8, 9])


def test_the_radius_of_deep_partition_is_the_published_one_and_is_reached():
    """floor((n_top - n_c - [c < top]) / 2), the least over c."""
    rng, shifts = np.random.default_rng(0), offsets(20, 1)
    for _ in range(200):
        logits = rng.normal(size=(20, 4))
        logits[: rng.integers(0, 20)] = np.eye(4)[rng.integers(0, 4)]
        counts = np.bincount(logits.argmax(-1), minlength=4)
        top = counts.argmax()
        published = min((counts[top] - counts[c] - (c < top)) // 2 for c in range(4) if c != top)
        assert elected(DeepPartition(), logits, shifts) == (top, published)


def test_finite_aggregation_counts_the_worst_buckets_first():
    votes, shifts = np.array([0, 0, 0, 1, 1, 2]), offsets(6, 2)
    closes = np.where(votes == 0, 2, np.where(votes == 1, 0, 1))
    of_bucket = sorted((closes[b] + closes[(b + shifts[1]) % 6] for b in range(6)), reverse=True)
    gap = 1
    found = needed((votes[:, None] == np.arange(3))[None].astype(int), shifts)[0]
    assert found[0, 1] == next(r for r in range(1, 7) if sum(of_bucket[:r]) > gap)
    assert found[1, 0] == 0


def test_a_run_off_certifies_no_less_on_average_where_two_classes_share_the_votes():
    rng, shifts, gained = np.random.default_rng(1), offsets(30, 1), []
    for _ in range(100):
        logits = rng.normal(size=(30, 5)) + np.array([1.2, 0.9, 0.9, 0, 0])
        (a, plain), (b, more) = (elected(rule(), logits, shifts) for rule in (DeepPartition, RunOffElection))
        gained += [more - plain] if a == b else []
    assert np.mean(gained) > 0


def data(count=120, seed=0):
    return oracles.noise_images(count, (4, 4, 1), 3, seed)


def trained(some, partitions=4, spread=1, recipe=RECIPE):
    model = build_model("mlp([6])", (4, 4, 1), 3, KEY)
    defence = build("training", f"partitioned(partitions={partitions}, spread={spread}, steps=12)")
    return defence.fit(KEY, model, some, recipe)[0]


def changed(some, rows, *, x=None, y=None):
    images, labels = some.x.copy(), some.y.copy()
    if x is not None:
        images[rows] = x
    if y is not None:
        labels[rows] = y
    return Dataset(images, labels, some.classes, some.name)


def differing(a, b):
    """Numbers of the models with another weight."""
    names = [name for name in a.params if not name.startswith("normalise")]
    return {m for m in range(a.net.models) if any(np.any(a.params[n][m] != b.params[n][m]) for n in names)}


@pytest.mark.parametrize("spread", [1, 2])
def test_one_image_reaches_only_the_models_of_its_bucket_to_the_bit(spread):
    some, before = data(), trained(data(), 4, spread)
    models = 4 * spread
    for row in (3, 50):
        flipped = changed(some, [row], y=(some.y[row] + 1) % 3)
        own = {int((buckets(some.x[[row]], models)[0] + shift) % models) for shift in offsets(models, spread)}
        assert differing(before, trained(flipped, 4, spread)) <= own
    gone = Dataset(some.x[1:], some.y[1:], some.classes, some.name)
    own = {int((buckets(some.x[[0]], models)[0] + shift) % models) for shift in offsets(models, spread)}
    assert differing(before, trained(gone, 4, spread)) <= own


def test_augmentation_is_the_recipes_and_is_each_models_own():
    flipped, some = dataclasses.replace(RECIPE, augmentation="flip"), data()
    before = trained(some, recipe=flipped)
    assert differing(before, trained(some)) == {0, 1, 2, 3}
    own = {int(buckets(some.x[[3]], 4)[0])}
    assert differing(before, trained(changed(some, [3], y=(some.y[3] + 1) % 3), recipe=flipped)) <= own


def test_the_order_of_the_images_changes_nothing_to_the_bit():
    some, order = data(), np.random.default_rng(3).permutation(120)
    shuffled = Dataset(some.x[order], some.y[order], some.classes, some.name)
    assert not differing(trained(some), trained(shuffled))


def test_training_anew_on_poisons_within_the_radius_keeps_every_certified_class():
    """The worst labels for as many images as the certificate allows, and models trained on them."""
    some, test = data(300), data(40, seed=5)
    before = trained(some, 9)
    test = Dataset(test.x, classify(before, test.x).astype(np.int32), test.classes, "its own answers")
    certificate = certify(before, test, "deep_partition", 1)
    poisoned = changed(some, [0, 1], y=(some.y[:2] + 1) % 3)
    after = classify(trained(poisoned, 9), test.x)
    safe = certificate.radius >= 2
    assert safe.any() and np.all(after[safe] == certificate.prediction[safe])


def certify(model, test, name, count):
    budget = build("budget", f"count({count})")
    options = {"ids": np.arange(len(test)), "runtime": Runtime()}
    return build("certifier", name).certify(KEY, model, test.x, test.y, budget, **options)


def test_partitions_share_the_images_and_every_one_is_seen_as_often_as_is_said():
    some = data()
    for spread in (1, 3):
        rows = np.concatenate(parts(some.x, some.y, 4 * spread, spread))
        assert np.all(np.bincount(rows, minlength=120) == spread)


def test_a_certificate_is_of_the_ensembles_own_class_and_loses_where_that_is_wrong():
    some, model = data(), trained(data(), 9)
    found = certify(model, some, "run_off_election", 2)
    right = found.prediction == some.y
    assert np.all(found.radius[~right] == -1) and np.all(found.certified == (right & (found.radius >= 2)))
    assert np.all(found.evidence["top_votes"] <= 9)


def test_what_is_no_ensemble_is_refused_by_the_name_of_what_makes_one():
    model, some = oracles.tiny()
    with pytest.raises(UserError, match=r"deep_partition certifies what defence partitioned trained"):
        certify(model, some, "deep_partition", 1)


def test_an_ensemble_is_read_back_as_it_was_written(tmp_path):
    model = trained(data())
    files.save(tmp_path / "m", model, files.describe(model, "mlp([6])", (4, 4, 1), 3))
    loaded, description = files.load(tmp_path / "m")
    assert description["ensemble"] == {"models": 4, "spread": 1, "draws": 0, "examples": 0} and loaded.net == model.net
    np.testing.assert_array_equal(classify(loaded, data().x), classify(model, data().x))


def test_batch_norm_is_refused():
    model = build_model("resnet20", (16, 16, 1), 3, KEY)
    with pytest.raises(UserError, match="partitioned: no batch norm"):
        build("training", "partitioned(partitions=2)").fit(KEY, model, oracles.noise_images(8, (16, 16, 1), 3), RECIPE)
