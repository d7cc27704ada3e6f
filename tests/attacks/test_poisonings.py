"""Single poisoning attacks: what each lowers, and the defence that freezes features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.attacks.poisoning.feature_attacks import distance
from robustbench_jax.attacks.poisoning.gradient_matching import _gradient, alignment
from robustbench_jax.attacks.poisoning.targeted import rounded
from robustbench_jax.models import build_model, files
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.judge import predict
from robustbench_jax.registry import build
from robustbench_jax.types import Dataset, UserError
from tests import oracles

KEY = jax.random.key(0)
DATA = oracles.noise_images(60, (8, 8, 1), 4)
TARGET = oracles.noise_images(1, (8, 8, 1), 4, 9).x[0]


def model(seed=0, widths="[16]"):
    return build_model(f"mlp({widths})", (8, 8, 1), 4, jax.random.key(seed))


def poisons(text, count=6, references=None):
    made = build("attack", text).craft(KEY, DATA, count, TARGET, 0, 2, references or (model(),))
    rows = np.flatnonzero(made.poisoned)
    return as_unit(made.dataset.x[rows]), as_unit(DATA.x[rows])


@pytest.mark.parametrize("how, name", [("each", "feature_collision"), ("mean", "bullseye_polytope")])
def test_features_close_in_on_the_targets(how, name):
    made, bases = poisons(f"{name}(eps=32/255, steps=60)")
    mix, target = jnp.zeros(len(made)), jnp.asarray(as_unit(TARGET))
    before, after = (float(distance(model(), jnp.asarray(x), mix, target, how)) for x in (bases, made))
    assert after < 0.5 * before


def test_a_mean_that_may_move_anywhere_reaches_the_target():
    """With features that are the pixels and no bound on the change, nothing is in the way but rounding."""
    made, _ = poisons("bullseye_polytope(eps=1, steps=400, learning_rate=0.02)", references=(model(widths="[]"),))
    np.testing.assert_allclose(made.mean(0), as_unit(TARGET), atol=0.02)


def test_a_combination_is_at_least_as_near_as_the_mean():
    target = jnp.asarray(as_unit(TARGET))
    x = jnp.asarray(as_unit(DATA.x[:3]))
    near = jnp.concatenate([target[None], x])
    mix = jnp.asarray([20.0, 0, 0, 0])
    assert float(distance(model(), near, mix, target, "convex")) < 1e-6
    assert float(distance(model(), near, mix, target, "mean")) > 1e-3


def test_gradients_turn_towards_the_targets():
    made, bases = poisons("gradient_matching(eps=32/255, steps=60)", 8)
    wanted = _gradient(model(), jnp.asarray(as_unit(TARGET))[None], jnp.asarray([2]))
    labels = jnp.full(len(made), 2)
    before, after = (float(alignment(_gradient(model(), jnp.asarray(x), labels), wanted)) for x in (bases, made))
    assert 1 - after < 0.6 * (1 - before)


def test_alignment_is_one_cosine_over_all_arrays():
    a = {"w": jnp.asarray([3.0, 0.0]), "b": jnp.asarray([0.0])}
    b = {"w": jnp.asarray([3.0, 0.0]), "b": jnp.asarray([4.0])}
    assert float(alignment(a, b)) == pytest.approx(0.6) and float(alignment(a, a)) == pytest.approx(1.0)


def test_more_restarts_give_no_larger_loss():
    attack, target = build("attack", "gradient_matching(steps=8, restarts=3)"), jnp.asarray(as_unit(TARGET))
    wanted = (_gradient(model(), target[None], jnp.asarray([2])),)
    bases = as_unit(DATA.x[DATA.y == 2][:5])
    one = attack.replace(restarts=1)
    losses = []
    for kind in (one, attack):
        x = kind.crafted(KEY, bases, target, 2, (model(),))
        losses.append(1 - float(alignment(_gradient(model(), x, jnp.full(5, 2)), wanted[0])))
    assert losses[1] <= losses[0] + 1e-6


def test_rounding_keeps_inside_the_box():
    bases = np.array([[0, 100, 255]], np.uint8)
    np.testing.assert_array_equal(rounded(np.array([[0.9, 0.9, 0.1]]), bases, 8 / 255), [[8, 108, 247]])
    np.testing.assert_array_equal(rounded(np.array([[0.0, 0.42, 1.0]]), bases, 8.9 / 255), [[0, 107, 255]])


def test_noise_of_a_class_is_one_pattern_and_lowers_the_loss():
    attack = build("attack", "unlearnable_examples(rounds=2, steps=3)")
    noise = attack.noise(KEY, model(), DATA.x, DATA.y, 4)
    for label in range(4):
        assert np.ptp(noise[DATA.y == label], axis=0).max() == 0

    def loss(x):
        logits = predict(model(), x)
        return -np.mean(np.asarray(jax.nn.log_softmax(logits))[np.arange(len(x)), DATA.y])

    assert loss(np.clip(as_unit(DATA.x) + noise, 0, 1).astype(np.float32)) < loss(as_unit(DATA.x))


def test_adversarial_poisons_are_taken_for_the_next_class():
    made = build("attack", "adversarial_poisons(eps=64/255)").poison(KEY, DATA, 60, (model(),))
    taken = [predict(model(), data.x).argmax(-1) == (DATA.y + 1) % 4 for data in (DATA, made.dataset)]
    assert taken[1].mean() > taken[0].mean() + 0.2


def test_the_surest_images_are_flipped_to_the_least_likely_label():
    made = build("attack", "adversarial_label_flip").poison(KEY, DATA, 5, (model(),))
    logits = predict(model(), DATA.x)
    rows = np.flatnonzero(made.poisoned)
    own = logits[np.arange(60), DATA.y]
    margin = own - np.where(np.eye(4, dtype=bool)[DATA.y], -np.inf, logits).max(-1)
    assert set(rows) == set(np.argsort(-margin)[:5])
    np.testing.assert_array_equal(made.dataset.y[rows], logits[rows].argmin(-1))


@pytest.mark.parametrize("recipe", ["sgd(epochs=2, batch_size=16, weight_decay=0.5)", "adamw(epochs=2, batch_size=16)"])
def test_a_new_head_is_trained_on_features_that_stay_to_the_bit(tmp_path, recipe):
    source, data = model(5), Dataset(DATA.x, DATA.y, DATA.classes, "noise")
    files.save(tmp_path / "m", source, files.describe(source, "mlp([16])", (8, 8, 1), 4))
    defence = build("training", f'head_only(checkpoint("{tmp_path}/m"))')
    fitted, _ = defence.fit(KEY, model(1), data, build("recipe", recipe))
    for name, value in source.params.items():
        if name.startswith("head/"):
            assert np.any(fitted.params[name] != value) and np.any(fitted.params[name] != model(1).params[name])
        else:
            np.testing.assert_array_equal(fitted.params[name], value)
    assert fitted.net == source.net


@pytest.mark.parametrize(
    "text, message",
    [
        ("feature_collision(eps=0)", "feature_collision: eps = 0.0 must be greater than 0"),
        ("gradient_matching(shift=-1)", "gradient_matching: shift = -1 must be at least 0"),
        ("unlearnable_examples(per='image')", "per = 'image'; there are: class, sample"),
        ("adversarial_poisons(steps=0)", "steps = 0 must be greater than 0"),
    ],
)
def test_wrong_arguments_are_named(text, message):
    with pytest.raises(UserError, match=message):
        build("attack", text)
