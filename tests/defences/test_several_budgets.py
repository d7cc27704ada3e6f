"""Adversarial trainings in several balls: which examples they make, and how e_at draws its budget."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from robustbench_jax.defences.training.e_at import Memory
from robustbench_jax.models import build_model
from robustbench_jax.ops.losses import cross_entropy
from robustbench_jax.registry import build
from robustbench_jax.stacks import fit_many
from robustbench_jax.training import fit
from robustbench_jax.types import Dataset, UserError

KEY = jax.random.key(0)
BALLS = "[linf(0.05), l2(0.4), l1(0.3)]"
PGD = "pgd(steps=4)"


def images(linear):
    return jnp.asarray(linear.data.x / 255, jnp.float32), jnp.asarray(linear.data.y), np.arange(len(linear.data))


def losses(model, x, y):
    return np.asarray(jax.vmap(cross_entropy)(jax.vmap(model)(x), y))


def budgets():
    return build("training", f"msd({BALLS})").budgets


def test_avg_at_has_an_example_in_every_ball_and_their_mean_loss(linear):
    x, y, ids = images(linear)
    made = build("training", f"avg_at({BALLS}, {PGD})")
    examples = made.perturb(KEY, linear.model, x, y, ids).reshape(3, *x.shape)
    for ball, found in zip(budgets(), examples, strict=True):
        sizes = np.asarray(jax.vmap(ball.size)(found - x))
        np.testing.assert_allclose(sizes, ball.eps, rtol=1e-4)  # the end of the ball, whatever was broken before
    logits = np.random.default_rng(0).normal(size=(3, 64, 2))
    expected = -np.mean([special.log_softmax(row, -1)[np.arange(64), y] for row in logits])
    flat = jnp.asarray(logits.reshape(-1, 2), jnp.float32)
    assert float(made.objective(KEY, None, None, None, flat, y, 0.0)) == pytest.approx(expected, rel=1e-5)


def test_max_at_takes_for_each_image_the_example_of_the_highest_loss(small_cnn):
    model, data = small_cnn
    x, y, ids = jnp.asarray(data.x / 255, jnp.float32), jnp.asarray(data.y), np.arange(len(data))
    text = "([linf(0.02), l2(0.25), l1(3)], pgd(steps=2))"
    every = build("training", f"avg_at{text}").perturb(KEY, model, x, y, ids).reshape(3, *x.shape)
    found = build("training", f"max_at{text}").perturb(KEY, model, x, y, ids)
    each = np.stack([losses(model, example, y) for example in every])
    best = each.argmax(0)
    assert len(set(best)) > 1
    np.testing.assert_allclose(found, np.asarray(every)[best, ids], atol=1e-6)


def test_msd_ends_in_one_of_its_balls_where_the_loss_is_as_high_as_in_the_best_of_them(linear):
    """On a linear model the worst point of the union is that of the ball with the largest eps * dual norm."""
    x, y, ids = images(linear)
    found = build("training", f"msd({BALLS}, steps=20)").perturb(KEY, linear.model, x, y, ids)
    inside = [np.asarray(jax.vmap(ball.size)(found - x)) <= ball.eps * (1 + 1e-6) for ball in budgets()]
    assert np.any(inside, axis=0).all() and (found >= 0).all() and (found <= 1).all()
    dual = [np.linalg.norm(linear.weights, order) for order in (1, 2, np.inf)]
    reach = max(ball.eps * norm for ball, norm in zip(budgets(), dual, strict=True))
    expected = np.log1p(np.exp(reach - linear.margin))
    np.testing.assert_allclose(losses(linear.model, found, y), expected, rtol=1e-4)


@pytest.mark.parametrize("defence", ["avg_at", "msd"])
def test_examples_depend_on_ids_alone(linear, defence):
    x, y, ids = images(linear)
    made = build("training", f"{defence}({BALLS}, {PGD})" if defence != "msd" else f"msd({BALLS}, steps=3)")
    whole = made.perturb(KEY, linear.model, x, y, ids)
    order = np.array([9, 4, 60, 17])
    part = made.perturb(KEY, linear.model, x[order], y[order], ids[order])
    count = len(whole) // len(x)
    expected = np.asarray(whole).reshape(count, *x.shape)[:, order].reshape(part.shape)
    np.testing.assert_allclose(part, expected, atol=1e-6)
    assert made.watched == (build("attack", "pgd(steps=10)"), budgets()[0])


def test_e_at_attacks_in_the_budget_that_its_memory_names(linear):
    x, y, ids = images(linear)
    made = build("training", f"e_at({BALLS}, {PGD})")
    for chosen, ball in enumerate(budgets()):
        recalled = made.recall(made.remember(x).replace(chosen=jnp.int32(chosen)))
        found = recalled.perturb(KEY, linear.model, x, y, ids)
        np.testing.assert_allclose(jax.vmap(ball.size)(found - x), ball.eps, rtol=1e-4)


def test_e_at_draws_budgets_in_proportion_to_their_errors_once_each_has_been_seen():
    memory = Memory(jnp.zeros(2), jnp.zeros(2), jnp.int32(0)).told(0.5).told(0.7)
    np.testing.assert_allclose(memory.weights, [1, 1])  # the second has had no batch
    memory = memory.replace(chosen=jnp.int32(1)).told(0.2)
    np.testing.assert_allclose(memory.weights, [0.6, 0.2], rtol=1e-6)
    made = build("training", "e_at")

    def objective(weights, batch):
        return jnp.sum(weights["w"]), ("params", "loss", jnp.float32(0.8))

    def drawn(key):
        weights, batch = {"w": jnp.ones(2)}, (None, None, None)
        return made.combine(key, objective, weights, batch, memory)[2].chosen

    share = np.mean(jax.vmap(drawn)(jax.random.split(KEY, 4000)))
    assert share == pytest.approx(0.2 / (0.6 + 0.2), abs=0.03)
    never = Memory(jnp.zeros(2), jnp.ones(2), jnp.int32(0))
    assert (never.weights > 0).all()


def halves():
    rng = np.random.default_rng(0)
    y = (np.arange(64) % 2).astype(np.int32)
    x = rng.integers(0, 130, (64, 4, 4, 1), np.uint8)
    x[y == 0, :2] += 90
    x[y == 1, 2:] += 90
    return Dataset(x, y, ("above", "below"), "halves")


def test_e_at_remembers_over_a_training_and_a_stack_of_models_is_trained_as_each_alone():
    data, recipe = halves(), build("recipe", "sgd(epochs=3, batch_size=16)")
    defence = build("training", "awp(e_at([linf(0.2), l1(2)], pgd(steps=2)), gamma=0.01)")
    models = [build_model("mlp([4])", (4, 4, 1), 2, jax.random.key(seed)) for seed in range(2)]
    stack = models[0].replace(params=jax.tree.map(lambda *p: jnp.stack(p), *(m.params for m in models)))
    keys = jax.random.split(KEY, 2)
    many = fit_many(keys, stack, data, recipe, defence=defence)
    for i, model in enumerate(models):
        alone = fit(keys[i], model, data, recipe, defence=defence)
        for name, value in alone.params.items():
            np.testing.assert_allclose(many.params[name][i], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "text, message",
    [
        ("max_at(linf(0.1))", r"max_at needs a list of budgets; write e.g. max_at\(\[linf"),
        ("msd([l2(1)])", "msd needs a list of budgets"),
        ("msd([linf(0.1), patch(3, 3)])", r"msd: budget = patch\(...\) is no norm ball"),
        ("msd(steps=0)", "msd: steps = 0 must be greater than 0"),
        ("avg_at(attack=autoattack)", "avg_at: attack = cascade.* give one attack"),
        ("e_at(chosen=1)", "no argument 'chosen'"),
        ("max_at([linf(0.1), l3(1)])", "no budget 'l3'"),
    ],
)
def test_wrong_arguments_are_named(text, message):
    with pytest.raises(UserError, match=message):
        build("training", text)
