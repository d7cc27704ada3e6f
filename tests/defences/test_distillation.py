"""Distillation: objectives against NumPy in float64, teachers that are given or trained, saturated logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from robustbench_jax.models import build_model
from robustbench_jax.registry import build
from robustbench_jax.training import fit
from robustbench_jax.types import Classifier, Dataset, UserError

KEY = jax.random.key(0)


def halves(count=64):
    rng = np.random.default_rng(0)
    y = (np.arange(count) % 2).astype(np.int32)
    x = rng.integers(0, 100, (count, 4, 4, 1), np.uint8)
    x[y == 0, :2] += 120
    x[y == 1, 2:] += 120
    return Dataset(x, y, ("above", "below"), "halves")


def table(params, x):
    """A teacher that says `params` [16, C] @ x."""
    return x.reshape(-1) @ params


def batch(classes=3, count=5):
    rng = np.random.default_rng(1)
    x = rng.uniform(size=(count, 4, 4, 1)).astype(np.float32)
    weights = rng.normal(size=(16, classes)).astype(np.float32)
    return x, Classifier(table, jnp.asarray(weights)), x.reshape(count, -1) @ weights, rng.integers(0, classes, count)


def kl(p, log_q):
    return np.sum(p * (np.log(p) - log_q), -1)


def test_defensive_distillation_is_the_cross_entropy_with_the_teachers_soft_labels_at_its_temperature():
    x, teacher, said, y = batch()
    logits = np.random.default_rng(2).normal(size=said.shape) * 20
    made = build("training", "defensive_distillation(40)").replace(teacher=teacher)
    found = made.objective(KEY, None, jnp.asarray(x), None, jnp.asarray(logits, jnp.float32), jnp.asarray(y), 0.5)
    expected = -40 * np.mean(np.sum(special.softmax(said / 40, -1) * special.log_softmax(logits / 40, -1), -1))
    assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_ard_is_the_divergence_from_the_teacher_and_the_clean_cross_entropy(weight):
    x, teacher, said, y = batch()
    clean, adv = np.random.default_rng(2).normal(size=(2, *said.shape)) * 3
    made = build("training", f"ard(temperature=5, weight={weight})").replace(loaded=teacher)
    logits = jnp.asarray(np.concatenate([adv, clean]), jnp.float32)
    found = made.objective(KEY, None, jnp.asarray(x), None, logits, jnp.asarray(y), 0.5)
    apart = np.mean(kl(special.softmax(said / 5, -1), special.log_softmax(adv / 5, -1)))
    fit = -np.mean(special.log_softmax(clean, -1)[np.arange(len(y)), y])
    assert float(found) == pytest.approx(weight * 25 * apart + (1 - weight) * fit, rel=1e-4)


def test_ard_trains_on_clean_images_and_on_adversarial_ones_inside_the_ball():
    x, teacher, _, y = batch()
    made = build("training", "ard(attack=pgd(steps=3), budget=linf(0.1))")
    seen = np.asarray(made.perturb(KEY, teacher, jnp.asarray(x), jnp.asarray(y), np.arange(len(y))))
    np.testing.assert_array_equal(seen[len(x) :], x)
    apart = np.abs(seen[: len(x)] - x).max((1, 2, 3))
    assert np.all(apart <= 0.1 + 1e-6) and np.all(apart > 0.05)


def test_rslad_is_the_divergence_of_both_answers_from_the_teachers_and_its_attack_raises_it():
    x, teacher, said, y = batch()
    clean, adv = np.random.default_rng(2).normal(size=(2, *said.shape)) * 3
    made = build("training", "rslad(linf(0.1), weight=0.75)").replace(loaded=teacher)
    logits = jnp.asarray(np.concatenate([adv, clean]), jnp.float32)
    found = made.objective(KEY, None, jnp.asarray(x), None, logits, jnp.asarray(y), 0.5)
    apart = [np.mean(kl(special.softmax(said, -1), special.log_softmax(z, -1))) for z in (adv, clean)]
    assert float(found) == pytest.approx(0.75 * apart[0] + 0.25 * apart[1], rel=1e-4)
    student = Classifier(table, jnp.asarray(np.random.default_rng(3).normal(size=(16, 3)), jnp.float32))
    seen = np.asarray(made.perturb(KEY, student, jnp.asarray(x), jnp.asarray(y), np.arange(len(y))))
    assert np.abs(seen[: len(x)] - x).max() <= 0.1 + 1e-6
    before, after = (
        kl(special.softmax(said, -1), special.log_softmax(z.reshape(5, -1) @ np.asarray(student.params), -1))
        for z in (x, seen[: len(x)])
    )
    assert np.all(after > before)


def test_a_teacher_is_trained_first_and_kept_beside_the_run(tmp_path):
    data, recipe = halves(), build("recipe", "sgd(epochs=12, batch_size=16)")
    model = build_model("mlp([8])", (4, 4, 1), 2, KEY)
    student = fit(KEY, model, data, recipe, defence=build("training", "defensive_distillation(20)"), directory=tmp_path)
    assert (tmp_path / "teacher").is_dir()
    logits = np.asarray(jax.vmap(student)(data.x.astype(np.float32) / 255))
    assert np.mean(logits.argmax(-1) == data.y) == 1
    plain = fit(KEY, model, data, recipe, defence=build("training", "standard"))
    assert np.ptp(logits, -1).mean() > 3 * np.ptp(np.asarray(jax.vmap(plain)(data.x / np.float32(255))), -1).mean()


def test_a_teacher_of_other_classes_is_refused():
    made = build("training", 'ard(teacher=zoo("fashion_mnist/linf/pgd_at"))')
    model = build_model("mlp([8])", (28, 28, 1), 3, KEY)
    data = Dataset(np.zeros((4, 28, 28, 1), np.uint8), np.zeros(4, np.int32), ("a", "b", "c"), "three")
    with pytest.raises(UserError, match="has 10 classes .* not 3"):
        made.prepare(KEY, model, data, None)


@pytest.mark.parametrize(
    "text, message",
    [
        ("defensive_distillation(0)", "temperature = 0.0 must be greater than 0"),
        ("ard(weight=2)", "weight = 2.0 must be from 0 to 1"),
        ("rslad(weight=-1)", "weight = -1.0 must be from 0 to 1"),
        ("ard(temprature=2)", "did you mean 'temperature'"),
        ("ard(attack=cascade([fgsm]))", "has no single result"),
    ],
)
def test_wrong_arguments_are_named(text, message):
    with pytest.raises(UserError, match=message):
        build("training", text)
