"""DP-FTRL: the tree's noise against sums made node by node, and what it promises against dp-accounting."""

import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dp_accounting import NeighboringRelation, SelfComposedDpEvent, SingleEpochTreeAggregationDpEvent
from dp_accounting.rdp import RdpAccountant

from robustbench_jax.defences.training.dp_ftrl import changes, levels
from robustbench_jax.models import build_model
from robustbench_jax.models.per_example import clipped_sum
from robustbench_jax.registry import build
from robustbench_jax.types import UserError
from tests import oracles

KEY = jax.random.key(0)
SHAPE = (6, 6, 1)
DATA = oracles.noise_images(160, SHAPE, 4)
PLAIN = "sgd(epochs=1, batch_size=20, learning_rate=1.0, weight_decay=0, schedule='constant', momentum=0.0)"


def trained(text, recipe=PLAIN, model="mlp([8])", key=KEY):
    fresh = build_model(model, SHAPE, 4, KEY)
    return build("training", text).fit(key, fresh, DATA, build("recipe", recipe))[0], fresh


@pytest.mark.parametrize("steps", [1, 2, 7, 8, 13])
def test_the_noise_of_a_sum_is_that_of_the_binary_digits_of_its_length(steps):
    there = Counter()
    for t in range(1, steps + 1):
        for level, number, sign in changes(t):
            there[level, number] += sign
        nodes = sorted(node for node, count in there.items() if count)
        assert all(there[node] == 1 for node in nodes) and len(nodes) == t.bit_count()
        covered = [i for level, number in nodes for i in range((number - 1) << level, number << level)]
        assert sorted(covered) == list(range(t))  # every step once


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 9, 100])
def test_a_step_is_in_as_many_nodes_as_there_are_levels(steps):
    used = {(level, number) for t in range(1, steps + 1) for level, number, _ in changes(t)}
    of_step = [sum((number - 1) << level <= i < number << level for level, number in used) for i in range(steps)]
    assert max(of_step) == levels(steps)


@pytest.mark.parametrize("noise, epochs, steps", [(8.0, 1, 7), (20.0, 10, 39), (15.0, 3, 64)])
def test_the_promise_is_that_of_the_tree_event_of_dp_accounting(noise, epochs, steps):
    recipe = build("recipe", f"sgd(epochs={epochs}, batch_size=10)")
    found = build("training", f"dp_ftrl(noise={noise})").guarantee(recipe, 10 * steps)
    accountant = RdpAccountant(neighboring_relation=NeighboringRelation.REPLACE_SPECIAL)
    accountant.compose(SelfComposedDpEvent(SingleEpochTreeAggregationDpEvent(noise, steps), epochs))
    renyi = accountant.get_epsilon(1e-5)
    assert 0.8 * renyi < found.epsilon <= renyi


def test_calibrated_noise_promises_what_was_asked_for():
    recipe = build("recipe", "sgd(epochs=5, batch_size=16)")
    found = build("training", "dp_ftrl(epsilon=2.0, delta=1e-6)").guarantee(recipe, 320)
    assert (found.epsilon, found.delta) == (pytest.approx(2.0, rel=1e-6), 1e-6) and "in 25 of them" in found.terms


def test_after_all_steps_of_an_epoch_the_weights_carry_the_noise_of_one_node_a_digit():
    """Eight steps of a model that hardly learns: noise * clip / batch, once; independent noise at each step would be
    the root of eight times as much. After seven steps it is that of three nodes.
    """
    for batch, nodes in ((20, 1), (22, 3)):
        recipe = PLAIN.replace("batch_size=20", f"batch_size={batch}")
        model, fresh = trained("dp_ftrl(noise=20.0, clip=1e-3)", recipe, "mlp([64])")
        moved = np.concatenate([(model.params[k] - fresh.params[k]).ravel() for k in fresh.net.weights])
        assert np.std(moved) == pytest.approx(20 * 1e-3 / batch * math.sqrt(nodes), rel=0.08)


def test_without_noise_it_is_descent_along_clipped_gradients():
    recipe = PLAIN.replace("batch_size=20", "batch_size=160").replace("learning_rate=1.0", "learning_rate=0.1")
    model, fresh = trained("dp_ftrl(noise=1e-9, clip=0.5)", recipe)
    x, y = jnp.asarray(DATA.x / 255.0, jnp.float32)[:, None], jnp.asarray(DATA.y)
    summed, *_ = clipped_sum(fresh.net, fresh.params, x, y, jnp.ones(160, bool), 0.5, "vmap")
    for name, value in summed.items():
        np.testing.assert_allclose(model.params[name], fresh.params[name] - 0.1 * value / 160, rtol=1e-3, atol=1e-5)


def test_trees_of_two_epochs_are_not_the_same():
    """A tree that were used twice would show in weights that move twice as far, not root two times."""
    recipe = PLAIN.replace("epochs=1", "epochs=4")
    model, fresh = trained("dp_ftrl(noise=20.0, clip=1e-3)", recipe, "mlp([64])")
    moved = np.concatenate([(model.params[k] - fresh.params[k]).ravel() for k in fresh.net.weights])
    assert np.std(moved) == pytest.approx(20 * 1e-3 / 20 * 2, rel=0.08)


@pytest.mark.parametrize(
    "text, message",
    [
        ("dp_ftrl(epsilon=0)", "dp_ftrl: epsilon = 0.0 must be greater than 0"),
        ("dp_ftrl(delta=1.0)", "dp_ftrl: delta = 1.0 must be below 1"),
        ("dp_ftrl(noise=-1.0)", "dp_ftrl: noise = -1.0 must be at least 0"),
        ("dp_ftrl(clip=0)", "dp_ftrl: clip = 0.0 must be greater than 0"),
    ],
)
def test_wrong_arguments_are_named(text, message):
    with pytest.raises(UserError, match=message):
        build("training", text)


def test_what_it_cannot_promise_is_refused():
    with pytest.raises(UserError, match="dp_ftrl: holdout, ema and swa"):
        trained("dp_ftrl", "sgd(epochs=1, batch_size=20, ema=0.9)")
    with pytest.raises(UserError, match="batch_size = 400: there are 160"):
        trained("dp_ftrl", "sgd(epochs=1, batch_size=400)")
    fresh = build_model("preact_resnet18", (8, 8, 1), 4, KEY)
    with pytest.raises(UserError, match="dp_ftrl: batch norm mixes the examples of a batch"):
        data, recipe = oracles.noise_images(40, (8, 8, 1), 4), build("recipe", "sgd(epochs=1, batch_size=20)")
        build("training", "dp_ftrl").fit(KEY, fresh, data, recipe)
