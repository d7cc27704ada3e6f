"""PATE: who is asked, what is answered, what a student learns from, and what is promised."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy.stats import norm

from robustbench_jax.defences.training.pate import aggregated
from robustbench_jax.models import build_model
from robustbench_jax.ops import votes
from robustbench_jax.ops.judge import classify
from robustbench_jax.ops.partitions import parts
from robustbench_jax.registry import build
from robustbench_jax.types import Dataset, UserError

KEY = jax.random.key(0)
SHAPE, CLASSES = (6, 6, 1), 3
RECIPE = "adamw(epochs=30, batch_size=16, learning_rate=0.01)"
CALL = "pate(npz('public.npz'), teachers=12, queries=120, answers=80, threshold=6, sigma1=1, sigma2=1, steps=60)"


def blocks(count, seed, noise=120):
    """Class c has rows 2 c and 2 c + 1 lit."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, count).astype(np.int32)
    x = rng.integers(0, noise, (count, *SHAPE)).astype(np.uint8)
    for image, label in zip(x, y, strict=True):
        image[2 * label : 2 * label + 2] += 80
    return Dataset(x, y, tuple("abc"), "blocks")


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    public = blocks(150, 1)
    np.savez("public.npz", x_train=public.x, y_train=np.zeros(150, int), x_test=public.x, y_test=np.zeros(150, int))
    return tmp_path


def trained(text=CALL, data=None, recipe=RECIPE):
    fresh = build_model("mlp([16])", SHAPE, CLASSES, KEY)
    return build("training", text).fit(KEY, fresh, data or blocks(600, 0), build("recipe", recipe))


def test_a_student_of_public_images_classifies_others_and_needs_none_of_their_labels(place):
    """The labels in the public file are all 0."""
    student, curve = trained()
    test = blocks(300, 2)
    assert np.mean(classify(student, test.x) == test.y) > 0.9
    assert curve.notes["answered"] == 80 and curve.notes["answers_right"] < 0.6
    assert "notes" in curve.description() and not hasattr(student.net, "inner")  # a single model


def test_the_student_sees_the_teachers_votes_alone(place):
    """With noise that drowns them, it learns nothing, however good its recipe."""
    student, _ = trained(CALL.replace("sigma2=1", "sigma2=1e6"))
    test = blocks(300, 2)
    assert np.mean(classify(student, test.x) == test.y) < 0.7


def test_one_image_more_changes_the_training_of_one_teacher():
    data = blocks(200, 0)
    more = Dataset(np.concatenate([data.x, blocks(1, 9).x]), np.append(data.y, 0), data.classes, "more")
    before, after = (parts(d.x, d.y, 12, 1) for d in (data, more))
    changed = [len(a) != len(b) for a, b in zip(before, after, strict=True)]
    assert sum(changed) == 1
    for own, other, new in zip(before, after, changed, strict=True):
        assert new or np.array_equal(data.x[own], more.x[other])


def test_answers_are_those_above_the_threshold_until_there_are_enough():
    counts = np.array([[9.0, 3, 0], [5, 4, 3], [0, 12, 0], [11, 1, 0], [0, 0, 12]])
    pate = build("training", "pate(fashion_mnist_mini, teachers=12, queries=5, answers=5, threshold=8)")
    quiet = dataclasses.replace(pate, sigma1=1e-9, sigma2=1e-9)
    answered, said = aggregated(KEY, counts, quiet)
    assert answered.tolist() == [True, False, True, True, True] and said.tolist() == [0, 0, 1, 0, 2]
    assert aggregated(KEY, counts, dataclasses.replace(quiet, answers=2))[0].tolist() == [
        True,
        False,
        True,
        False,
        False,
    ]


def test_noise_is_in_votes():
    """Of 4,000 even votes 6 to 5, one in so many is answered otherwise: noise of two counts, each of sigma2."""
    pate = build(
        "training", "pate(fashion_mnist_mini, teachers=12, queries=4000, answers=4000, sigma1=2, sigma2=3, threshold=5)"
    )
    counts = np.tile([6.0, 5.0], (4000, 1))
    answered, said = aggregated(KEY, counts, pate)
    assert np.mean(answered) == pytest.approx(norm.cdf(0.5), abs=0.025)
    assert np.mean(said == 0) == pytest.approx(norm.cdf(1 / (3 * np.sqrt(2))), abs=0.025)


def test_the_promise_is_that_of_its_arguments_and_the_note_that_of_the_votes(place):
    defence = build("training", CALL)
    promised = defence.guarantee(build("recipe", RECIPE), 600)
    assert promised == votes.guarantee(1.0, 1.0, 120, 80, 1e-5) and "80 answers" in promised.terms
    notes = trained()[1].notes
    assert 0 < notes["epsilon_data_dependent"] < promised.epsilon  # teachers agree: certain answers cost little
    assert notes["epsilon_data_dependent_told"] != notes["epsilon_data_dependent"]


def test_the_record_has_the_promise_and_beside_it_what_is_none(place):
    import robustbench_jax as rb

    private, test = blocks(600, 0), blocks(60, 2)
    np.savez("data.npz", x_train=private.x, y_train=private.y, x_test=test.x, y_test=test.y, classes=list("abc"))
    record = rb.privacy(
        "mlp([16])", 'npz("data.npz")', "loss_threshold", "shadows(0)", defence=CALL, recipe=RECIPE, directory="victims"
    )
    found = record.metrics
    assert "80 answers" in found["epsilon"].definition
    assert "no promise" in found["epsilon_data_dependent"].definition
    assert 0 < found["epsilon_data_dependent"].value < found["epsilon"].value


@pytest.mark.parametrize(
    "text, message",
    [
        ("pate(npz('p'), answers=2000)", "pate: answers = 2000 must be at most queries = 1000"),
        ("pate(npz('p'), threshold=100)", "pate: threshold = 100.0 must be at least 0 and below 100"),
        ("pate(npz('p'), sigma2=0)", "pate: sigma2 = 0.0 must be greater than 0"),
        ("pate(npz('p'), delta=1)", "pate: delta = 1.0 must be at least 0 and below 1"),
        ("pate", "training 'pate' needs 'public'"),
    ],
)
def test_wrong_arguments_are_named(text, message):
    with pytest.raises(UserError, match=message):
        build("training", text)


def test_what_it_cannot_do_is_said(place):
    private = Dataset(
        np.concatenate([blocks(50, 0).x, np.load("public.npz")["x_train"][:3]]), np.zeros(53, int), ("a",) * 3, ""
    )
    with pytest.raises(UserError, match="3 of 120 public images are training images too"):
        trained(data=private)
    with pytest.raises(UserError, match="batch_size = 128: at most 80 images will be answered"):
        trained(recipe="adamw(epochs=1)")
    with pytest.raises(UserError, match=r"\d of 120 queries are answered, batch_size = 16; lower threshold = 11"):
        trained(CALL.replace("threshold=6, sigma1=1", "threshold=11, sigma1=0.01"), blocks(12, 0))
