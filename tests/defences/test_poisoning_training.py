"""Trainings against poisons: mixed images, losses for wrong labels, and the unlearning of what is learnt first."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.defences.training.mixed_images import Mixing, rectangle
from robustbench_jax.models import build_model
from robustbench_jax.ops.judge import classify
from robustbench_jax.registry import build
from robustbench_jax.training import fit
from robustbench_jax.types import Dataset, UserError

KEY = jax.random.key(0)
LOGITS = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), jnp.float32)
Y = jnp.asarray([0, 1, 2, 3, 0, 1])


def seen(mixing, x, y):
    """What the objective is given: images and labels."""
    given = []
    mixing.combine(KEY, lambda w, batch: (given.append(batch) or w["a"] * 0.0, ()), {"a": jnp.ones(())}, (x, x, y), ())
    return given[0]


@pytest.mark.parametrize("paste", [False, True])
def test_labels_are_mixed_by_what_there_is_of_each_image(paste):
    """Images that are constant and one-hot, so that what is in a mixed one can be read off it."""
    x = jnp.asarray(np.broadcast_to(np.eye(6)[:, None, None], (6, 9, 9, 6)), jnp.float32)
    _, mixed, labels = seen(Mixing(1.0, paste, 6), x, jnp.arange(6))
    np.testing.assert_allclose(np.asarray(mixed).mean((1, 2)), labels, atol=1e-5)
    own = np.asarray(labels)[np.arange(6), np.arange(6)]
    assert np.ptp(own) > 0.2 and np.allclose(np.asarray(labels).sum(1), 1, atol=1e-5)
    assert (set(np.unique(np.asarray(mixed).round(4))) == {0, 1}) == paste


def test_a_rectangle_has_the_area_that_is_not_kept_unless_it_is_cut_off():
    areas = [float(rectangle(jax.random.key(i), (40, 60), 0.75).mean()) for i in range(60)]
    assert max(areas) == pytest.approx(0.25, abs=0.02) and min(areas) < 0.15


def test_the_generalised_cross_entropy_lies_between_two_losses():
    chance = np.asarray(jax.nn.softmax(LOGITS))[np.arange(6), Y]
    for q, expected in ((1.0, np.mean(1 - chance)), (1e-4, np.mean(-np.log(chance)))):
        assert float(build("training", f"gce({q})").loss(LOGITS, Y)) == pytest.approx(expected, rel=1e-3)
    assert np.isfinite(float(build("training", "gce").loss(jnp.asarray([[0.0, 200.0]]), jnp.asarray([0]))))


def test_the_symmetric_cross_entropy_is_its_two_parts():
    chance = np.asarray(jax.nn.softmax(LOGITS))[np.arange(6), Y]
    expected = np.mean(0.5 * -np.log(chance) + 2 * 4 * (1 - chance))
    found = build("training", "symmetric_cross_entropy(0.5, 2)").loss(LOGITS, Y)
    assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("hard", [False, True])
def test_bootstrapping_believes_the_model_by_a_share(hard):
    logs = np.asarray(jax.nn.log_softmax(LOGITS))
    says = np.eye(4)[logs.argmax(1)] if hard else np.exp(logs)
    expected = -np.mean(np.sum((0.7 * np.eye(4)[Y] + 0.3 * says) * logs, 1))
    assert float(build("training", f"bootstrapping(0.7, {hard})").loss(LOGITS, Y)) == pytest.approx(expected, rel=1e-5)
    plain = build("training", "standard").loss(LOGITS, Y)
    assert float(build("training", "bootstrapping(1)").loss(LOGITS, Y)) == pytest.approx(float(plain), rel=1e-5)


def noisy():
    """Four classes of 8x8 images, a tenth of them with a bright corner and label 0: (data, clean data, stamped)."""
    rng = np.random.default_rng(0)
    centres = rng.uniform(100, 140, (4, 64))
    y = np.arange(400, dtype=np.int32) % 4
    x = np.clip(centres[y] + rng.normal(0, 60, (400, 64)), 0, 255).astype(np.uint8).reshape(-1, 8, 8, 1)
    bad = np.zeros(400, bool)
    bad[rng.choice(np.flatnonzero(y), 40, replace=False)] = True
    marked = np.array(x)
    marked[:, :3, :3] = 255
    poisoned = Dataset(np.where(bad[:, None, None, None], marked, x), np.where(bad, 0, y), tuple("abcd"), "n")
    return poisoned, Dataset(x, y, tuple("abcd"), "n"), marked


def test_anti_backdoor_learning_unlearns_a_patch():
    data, clean, marked = noisy()
    model = build_model("mlp([32])", (8, 8, 1), 4, KEY)
    recipe = build("recipe", "sgd(epochs=8, batch_size=20, learning_rate=0.05)")
    found = {}
    for text in (
        "standard",
        "abl(early=2, isolated=0.05, unlearning=sgd(epochs=10, batch_size=20, learning_rate=0.01))",
    ):
        trained = fit(KEY, model, data, recipe, defence=build("training", text))
        success = np.mean(classify(trained, marked[clean.y != 0]) == 0)
        found[text[:3]] = (np.mean(classify(trained, clean.x) == clean.y), success)
    assert found["sta"][1] > 0.9 and found["abl"][1] < 0.3  # and accuracy is lost, as published
    assert found["sta"][0] > found["abl"][0] > 0.4


@pytest.mark.parametrize(
    "text, message",
    [
        ("mixup(0)", "mixup: alpha = 0.0 must be greater than 0"),
        ("gce(2)", "gce: q = 2.0 must be above 0 and at most 1"),
        ("bootstrapping(2)", "bootstrapping: beta = 2.0 must be from 0 to 1"),
        ("symmetric_cross_entropy(-1)", "symmetric_cross_entropy: alpha = -1.0 must be at least 0"),
        ("abl(isolated=0.6)", "abl: isolated = 0.6 must be above 0 and below 0.5"),
    ],
)
def test_wrong_arguments_are_named(text, message):
    with pytest.raises(UserError, match=message):
        build("training", text)


def test_early_epochs_leave_some():
    model, recipe = build_model("mlp([])", (8, 8, 1), 4, KEY), build("recipe", "sgd(epochs=2, batch_size=20)")
    with pytest.raises(UserError, match="abl: early = 2 of 2 epochs"):
        fit(KEY, model, noisy()[0], recipe, defence=build("training", "abl"))
