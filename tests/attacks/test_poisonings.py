"""Single poisoning attacks: what each lowers, and the defence that freezes features."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy

from robustbench_jax.attacks.poisoning.feature_attacks import distance
from robustbench_jax.attacks.poisoning.gradient_matching import alignment, training_gradient
from robustbench_jax.attacks.poisoning.influence_poisoning import influence, loss
from robustbench_jax.attacks.poisoning.meta_poison import learnt
from robustbench_jax.attacks.poisoning.targeted import rounded
from robustbench_jax.defences.training import head_only
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
    wanted = training_gradient(model(), jnp.asarray(as_unit(TARGET))[None], jnp.asarray([2]))
    labels = jnp.full(len(made), 2)
    before, after = (
        float(alignment(training_gradient(model(), jnp.asarray(x), labels), wanted)) for x in (bases, made)
    )
    assert 1 - after < 0.6 * (1 - before)


def test_alignment_is_one_cosine_over_all_arrays():
    a = {"w": jnp.asarray([3.0, 0.0]), "b": jnp.asarray([0.0])}
    b = {"w": jnp.asarray([3.0, 0.0]), "b": jnp.asarray([4.0])}
    assert float(alignment(a, b)) == pytest.approx(0.6) and float(alignment(a, a)) == pytest.approx(1.0)


def test_more_restarts_give_no_larger_loss():
    attack, target = build("attack", "gradient_matching(steps=8, restarts=3)"), jnp.asarray(as_unit(TARGET))
    wanted = (training_gradient(model(), target[None], jnp.asarray([2])),)
    bases = as_unit(DATA.x[DATA.y == 2][:5])
    one = attack.replace(restarts=1)
    losses = []
    for kind in (one, attack):
        x = kind.crafted(KEY, bases, target, 2, (model(),), DATA)
        losses.append(1 - float(alignment(training_gradient(model(), x, jnp.full(5, 2)), wanted[0])))
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


def test_a_head_on_features_computed_once_is_the_head_on_features_of_every_batch(tmp_path, monkeypatch):
    source = model(5)
    files.save(tmp_path / "m", source, files.describe(source, "mlp([16])", (8, 8, 1), 4))
    defence, recipe = build("training", f'head_only(checkpoint("{tmp_path}/m"))'), build("recipe", "adamw(epochs=3)")
    heads = []
    for slow in (False, True):
        assert not head_only._in_training(source.net)
        monkeypatch.setattr(head_only, "_in_training", lambda net, slow=slow: slow)
        fitted, curve = defence.fit(KEY, model(1), DATA, dataclasses.replace(recipe, batch_size=16))
        heads.append((fitted.params["head/kernel"], fitted.params["head/bias"], curve.loss))
        monkeypatch.undo()
    for once, each in zip(*heads, strict=True):
        np.testing.assert_allclose(once, each, rtol=1e-4, atol=1e-6)


def test_after_training_on_its_poisons_the_target_is_nearer_to_the_intended_class():
    made, bases = poisons("meta_poison(eps=0.3, steps=60, references=1)", 10)
    target, losses = jnp.asarray(as_unit(TARGET))[None], []
    clean, labels = jnp.asarray(as_unit(DATA.x)), jnp.append(DATA.y, jnp.full(len(made), 2))
    for x in (bases, made):
        x = jnp.concatenate([clean, jnp.asarray(x)])
        weights = model().net.trainable(model().params)
        for _ in range(4):
            weights = learnt(model(), weights, x, labels, 0.1)
        logits = model().net(model().params | weights, target)
        losses.append(-float(jax.nn.log_softmax(logits)[0, 2]))
    assert losses[1] < losses[0] - 0.02


def linear():
    """A softmax regression that minimises the regularised loss of DATA with one poison, in float64 by Newton's rule."""
    x, y = DATA.x.reshape(60, -1)[:, :6] / 255.0, DATA.y
    return x, y, np.random.default_rng(0).uniform(size=6)


def minimised(x, y, decay):
    """Weights [7, C] (the bias last) of the mean cross-entropy + decay / 2 |w|^2, bias and all."""
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    wrong = np.eye(4)[y]

    def value(w):
        logits = x @ w.reshape(7, 4)
        shares = scipy.special.softmax(logits, -1)
        loss = np.mean(scipy.special.logsumexp(logits, -1) - logits[np.arange(len(y)), y])
        return loss + decay / 2 * np.sum(w**2), (x.T @ (shares - wrong) / len(x)).ravel() + decay * w

    found = scipy.optimize.minimize(value, np.zeros(28), jac=True, method="BFGS", options={"gtol": 1e-10})
    return found.x.reshape(7, 4)


def test_influence_is_the_change_of_the_held_out_loss_after_training_again():
    x, y, poison = linear()
    decay, label, held = 0.05, 1, slice(0, 20)

    def held_loss(poison):
        w = minimised(np.concatenate([x[20:], poison[None]]), np.append(y[20:], label), decay)
        logits = x[held] @ w[:6] + w[6]
        return np.mean(scipy.special.logsumexp(logits, -1) - logits[np.arange(20), y[held]]), w

    weights = held_loss(poison)[1]
    steps = np.eye(6) * 1e-3
    measured = np.array([(held_loss(poison + s)[0] - held_loss(poison - s)[0]) / 2e-3 for s in steps])
    net = build_model("mlp([])", (1, 6, 1), 4, KEY)
    names = {"kernel": weights[:6], "bias": weights[6]}
    params = {k: jnp.asarray(names[k.split("/")[-1]], jnp.float32) for k in net.net.trainable(net.params)}
    fixed = net.replace(params=net.params | {k: jnp.zeros_like(v) for k, v in net.params.items() if "mean" in k})
    images = [jnp.asarray(part, jnp.float32).reshape(-1, 1, 6, 1) for part in (x[20:], poison[None], x[held])]

    def training(weights, poisons):
        whole = jnp.concatenate([images[0], poisons])
        size = sum(jnp.sum(v**2) for v in weights.values())
        return loss(fixed, weights, whole, jnp.append(y[20:], label)) + decay / 2 * size

    slope = influence(fixed, params, images[1], jnp.asarray([label]), training, (images[2], jnp.asarray(y[held])))
    np.testing.assert_allclose(np.asarray(slope).ravel(), measured, rtol=0.05, atol=2e-5)


def test_influence_is_for_linear_models():
    attack = build("attack", "influence_poisoning(steps=1)")
    with pytest.raises(UserError, match=r"influence_poisoning: is for linear models, such as mlp\(\[\]\); .* 2 layers"):
        attack.poison(KEY, DATA, 3, (model(),))


def test_poisons_of_a_subpopulation_are_copies_of_its_images_with_one_wrong_label():
    made = build("attack", "subpopulation(clusters=5)").poison(KEY, DATA, 9, (model(),))
    x, y = made.dataset.x[60:], made.dataset.y[60:]
    assert made.subpopulation.members(x, y).all() and len(np.unique(y)) == 1
    inside = made.subpopulation.members(DATA.x, DATA.y)
    assert 0 < inside.sum() < 60 and np.bincount(DATA.y[inside]).argmax() != y[0]
    for image in x:
        assert np.any(np.all(image == DATA.x[inside], axis=(1, 2, 3)))


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
