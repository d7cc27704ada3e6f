"""Model extraction: linear models and small ReLU networks exactly, others better than chance, never past the budget."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.attacks.extraction.active_thief import entropy, k_center
from robustbench_jax.attacks.extraction.adaptive_knockoff import drawn_by, moved
from robustbench_jax.attacks.extraction.cloning import drawn
from robustbench_jax.attacks.extraction.last_layer import width
from robustbench_jax.models import build_model
from robustbench_jax.ops.judge import predict
from robustbench_jax.registry import build, discover
from robustbench_jax.thefts import Oracle
from robustbench_jax.types import Classifier, Dataset, UserError
from tests import oracles

KEY = jax.random.key(0)
SHORT = "model='mlp([8])', least_steps=20"
CALLS = {
    "active_thief": f"active_thief({SHORT}, rounds=2)",
    "adaptive_knockoff": f"adaptive_knockoff({SHORT}, rounds=2)",
    "data_free": "data_free(model='mlp([8])', batch=4)",
    "equation_solving": "equation_solving",
    "jacobian_augmentation": f"jacobian_augmentation({SHORT}, seeds=20)",
    "knockoff": f"knockoff({SHORT})",
    "last_layer": f"last_layer({SHORT})",
    "mixmatch": f"mixmatch({SHORT}, recipe=adamw(epochs=1, batch_size=16))",
    "relu_reconstruction": "relu_reconstruction(lines=4)",
}
ATTACKS = {name for name, it in discover("attack").items() if it.facts["threat"] == "extraction"}
POOL = oracles.noise_images(60, shape=(4, 4, 1), classes=3)
SIZE = 16


@functools.cache
def victim(architecture="mlp([10])", seed=1):
    """A network whose neurons switch inside the box."""
    model = build_model(architecture, (4, 4, 1), 3, jax.random.key(seed))
    inner = {
        name: -jnp.asarray(0.45 * model.params[name.replace("bias", "kernel")].sum(0))
        for name in model.params
        if name.startswith("hidden") and name.endswith("bias")
    }
    return model.replace(params=model.params | inner)


def oracle(model=None, budget=100, access="scores"):
    return Oracle(victim() if model is None else model, access, budget, KEY)


def steal(text, model=None, budget=100, pool=POOL):
    attack = build("attack", text)
    asked = oracle(model, budget, attack.access)
    attack.require(asked, pool.x.shape[1:], len(pool.classes))
    return attack.steal(KEY, asked, pool), asked


def centred(model, x):
    logits = predict(model, x)
    return logits - logits.mean(-1, keepdims=True)


def test_every_extraction_attack_has_a_call_here():
    assert set(CALLS) == ATTACKS


@pytest.mark.parametrize("name", sorted(CALLS))
def test_a_clone_answers_as_many_classes_and_the_budget_is_kept(name):
    found, asked = steal(CALLS[name])
    assert 0 < asked.queries <= asked.budget
    logits = predict(found.clone, POOL.x)
    assert logits.shape == (len(POOL), 3) and np.all(np.isfinite(logits))


@pytest.mark.parametrize("name", sorted(set(CALLS) - {"mixmatch", "data_free"}))
def test_the_same_key_gives_the_same_clone(name):
    one, two = (steal(CALLS[name])[0].clone for _ in range(2))
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(two.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_labels_of_the_thiefs_images_are_not_looked_at():
    """But by the bandit, whose kinds they are."""
    other = dataclasses.replace(POOL, y=POOL.y[::-1].copy())
    one, two = (steal(CALLS["knockoff"], pool=pool)[0].clone for pool in (POOL, other))
    np.testing.assert_array_equal(predict(one, POOL.x), predict(two, POOL.x))


def test_the_oracle_counts_every_question_and_stops_at_its_budget():
    asked = oracle(budget=10)
    said = asked.ask(POOL.x[:6])
    np.testing.assert_allclose(said.sum(-1), 1)
    np.testing.assert_allclose(said, jax.nn.softmax(predict(victim(), POOL.x[:6])), atol=1e-6)
    asked.ask(POOL.x[:4])
    assert asked.left == 0
    with pytest.raises(UserError, match="1 more were asked for where 0 are left"):
        asked.ask(POOL.x[:1])
    labels = oracle(access="labels").ask(POOL.x)
    np.testing.assert_array_equal(labels.argmax(-1), predict(victim(), POOL.x).argmax(-1))
    assert set(np.unique(labels)) == {0.0, 1.0}


def test_a_randomised_victim_draws_anew_for_each_question():
    noisy = build("model_defence", "noisy_answers(0.05)").protect(KEY, victim(), POOL)
    asked = oracle(noisy)
    assert np.all(asked.ask(POOL.x[:3]) != asked.ask(POOL.x[:3]))


def test_double_precision_is_double_precision():
    asked = oracle()
    x = np.full((1, 4, 4, 1), 0.4)
    apart = asked.ask_exactly(np.concatenate([x, x + 1e-9]))
    assert 0 < np.abs(apart[0] - apart[1]).max() < 1e-7


def test_a_linear_model_is_recovered_exactly():
    model = victim("mlp([])")
    found, asked = steal("equation_solving", model, budget=SIZE + 1)
    assert asked.queries == SIZE + 1
    np.testing.assert_allclose(centred(found.clone, POOL.x), centred(model, POOL.x), atol=1e-5)
    for name in ("kernel", "bias"):
        own = np.asarray(model.params[f"head/{name}"])
        np.testing.assert_allclose(found.clone.params[name], own - own.mean(-1, keepdims=True), atol=1e-5)


def test_a_small_relu_network_is_recovered_neuron_by_neuron():
    """To 1e-4: the function on images, and each neuron's hyperplane."""
    model = victim()
    found, _ = steal("relu_reconstruction", model, budget=20_000)
    np.testing.assert_allclose(centred(found.clone, POOL.x), centred(model, POOL.x), atol=1e-4)
    assert found.found["width_found"] == 10
    own = np.asarray(model.params["hidden/0/kernel"])
    planes = np.concatenate([own, np.asarray(model.params["hidden/0/bias"])[None]])
    planes = planes / np.linalg.norm(own, axis=0)
    got = np.concatenate([found.clone.params["kernel"], found.clone.params["bias"][None]])
    away = np.minimum(*(np.abs(planes[:, :, None] - sign * got[:, None, :]).max(0) for sign in (1, -1)))
    assert away.min(1).max() < 1e-4


def test_what_the_neurons_budget_did_not_reach_is_linear():
    found, asked = steal("relu_reconstruction", budget=120)
    assert asked.queries <= 120 and found.found["width_found"] < 10


@pytest.mark.parametrize("narrow", [1, 2, 4])
def test_the_width_of_the_last_layer_shows(narrow):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(200, narrow)) @ rng.normal(size=(narrow, 9)) + rng.normal(size=9)
    logits = (logits - logits.mean(-1, keepdims=True)).astype(np.float32)
    assert width(logits) == narrow
    assert width(rng.normal(size=(200, 9))) == 8


def test_answers_teach_more_than_noise_does():
    """A clone trained on the answers agrees with the victim far more often than by chance; with more, more often."""
    model, many = victim(), oracles.noise_images(1500, shape=(4, 4, 1), classes=3)
    fresh = oracles.noise_images(500, shape=(4, 4, 1), classes=3, seed=9).x
    agreed = {}
    for budget in (20, 1000):
        clone = steal("knockoff(model='mlp([32])', least_steps=300)", model, budget, many)[0].clone
        agreed[budget] = np.mean(predict(clone, fresh).argmax(-1) == predict(model, fresh).argmax(-1))
    assert agreed[1000] > 0.65 and agreed[1000] > agreed[20] + 0.1


def test_few_answers_teach_more_beside_many_images_without():
    sides = np.arange(400) % 2
    noise = np.random.default_rng(0).normal(0, 45, (400, SIZE))
    x = np.clip(128 + 40 * (2 * sides[:, None] - 1) + noise, 0, 255).astype(np.uint8)
    pool = Dataset(x.reshape(-1, 4, 4, 1), sides.astype(np.int32), ("dark", "bright"), "two clouds")

    def bright(params, x):
        return params * jnp.stack([0.5 - jnp.mean(x), jnp.mean(x) - 0.5])

    more = "model='mlp([16])', least_steps=400, recipe=adamw(epochs=5, batch_size=40, learning_rate=0.005)"
    right = {}
    for name in ("knockoff", "mixmatch"):
        clone = steal(f"{name}({more}, labels=True)", Classifier(bright, jnp.float32(50)), 8, pool)[0].clone
        right[name] = np.mean(predict(clone, pool.x).argmax(-1) == sides)
    assert right["mixmatch"] > right["knockoff"] + 0.1


def test_without_any_image_a_linear_model_is_learnt_from_images_made_for_it():
    """It takes many questions: 0.45, 0.90 and 1.00 agreement for 2,000, 20,000 and 100,000 of them."""
    model, fresh = victim("mlp([])"), oracles.noise_images(500, shape=(4, 4, 1), classes=3, seed=9).x
    clone = steal("data_free(model='mlp([32])', batch=32)", model, 20_000)[0].clone
    assert np.mean(predict(clone, fresh).argmax(-1) == predict(model, fresh).argmax(-1)) > 0.75


def test_k_center_takes_the_furthest_and_uncertainty_the_least_certain():
    points = np.array([[0.0], [1.0], [4.0], [10.0]])
    np.testing.assert_array_equal(k_center(points, np.array([[0.0]]), 2), [3, 2])
    np.testing.assert_allclose(entropy(np.array([[0.5, 0.5], [1.0, 0.0]])), [np.log(2), 0])


def test_rows_come_again_only_when_all_have_come():
    rows = drawn(KEY, 25, 10)
    assert set(np.bincount(rows)) <= {2, 3} and sorted(rows[:10]) == list(range(10))
    unseen = np.ones(6, bool)
    got = drawn_by(np.random.default_rng(0), np.array([1.0, 0.0]), np.array([0, 0, 0, 1, 1, 1]), unseen, 3)
    assert sorted(got) == [0, 1, 2] and list(unseen) == [False] * 3 + [True] * 3


def test_the_bandit_prefers_what_was_rewarded():
    after = moved(np.zeros(3), np.array([0, 1, 2]), np.array([1.0, 0.0, 0.0]), 1.0)
    assert after[0] > 0 > after[1] and after[1] == after[2]


@pytest.mark.parametrize(
    "text, message",
    [
        ("knockoff(model='cn')", "did you mean 'cnn'"),
        ("knockoff(images='fashion_mnist_min')", "did you mean 'fashion_mnist_mini'"),
        ("knockoff(least_steps=0)", "least_steps = 0"),
        ("knockoff(recipe=sgd(holdout=100))", "holdout = 100"),
        ("active_thief(strategy='k_centre')", "did you mean 'k_center'"),
        ("active_thief(start=1.0)", "start = 1.0"),
        ("jacobian_augmentation(seeds=0)", "seeds = 0"),
        ("mixmatch(weight=-1.0)", "weight = -1.0"),
        ("data_free(batch=0)", "batch = 0"),
        ("relu_reconstruction(lines=0)", "lines = 0"),
    ],
)
def test_a_wrong_argument_is_named(text, message):
    with pytest.raises(UserError, match=message):
        build("attack", text)


@pytest.mark.parametrize(
    "text, message",
    [
        ("equation_solving", "needs 17 for images"),
        ("relu_reconstruction", "needs 68 for one neuron"),
        ("data_free(batch=64)", "needs 448 for one round"),
    ],
)
def test_a_budget_that_is_too_small_is_refused_before_anything_is_asked(text, message):
    asked = oracle(budget=10)
    with pytest.raises(UserError, match=message):
        build("attack", text).require(asked, (4, 4, 1), 3)
    assert asked.queries == 0
