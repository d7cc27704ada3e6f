"""The threat of extraction: what is compared with what, on thefts whose outcome is known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.ops.queries import Queries
from robustbench_jax.thefts import ExtractionAttack, Stolen
from robustbench_jax.threats import extraction
from robustbench_jax.types import Classifier, UserError
from tests import oracles

KEY = jax.random.key(0)


@dataclasses.dataclass
class Made(ExtractionAttack):
    """Asks `asks` questions and returns a clone that it had all along."""

    clone: Classifier
    asks: int = 3
    registered = ("attack", "made")
    facts = {"threat": "extraction", "access": "labels"}

    def steal(self, key, oracle, pool):
        oracle.ask(pool.x[: self.asks])
        return Stolen(self.clone)


def run(clone, linear, eps=0.05, budget=10, asks=3, pool=True):
    attack = Made(clone, asks)
    return extraction.run(
        KEY, linear.model, linear.data, attack, Queries(budget, eps), pool=linear.data if pool else None
    )


def test_a_perfect_copy_agrees_always_and_its_adversarial_images_are_the_victims(linear):
    """Of a linear model PGD on the copy breaks exactly the images whose margin is at most eps ||w||_1."""
    found = run(linear.model, linear)
    assert found.metrics["agreement"].value == found.metrics["clone_accuracy"].value == 1
    np.testing.assert_array_equal(found.arrays["transferred"], linear.distance("linf") <= 0.05)
    assert found.metrics["queries_spent"].value == 3
    assert found.metrics["transfer_success_rate"].n == len(linear.data)
    for name, value in linear.model.params.items():
        np.testing.assert_array_equal(found.artefacts[f"clone/{name}"], value)


def test_an_opposite_copy_never_agrees_and_fools_nobody(linear):
    other = linear.model.replace(params=jax.tree.map(lambda value: -value, linear.model.params))
    found = run(other, linear)
    assert found.metrics["agreement"].value == found.metrics["clone_accuracy"].value == 0
    assert not found.arrays["transferred"].any()  # it takes every image for a success already


def test_a_wrong_answer_that_both_give_is_an_agreement():
    model, data = oracles.tiny()
    data = dataclasses.replace(data, y=(data.y + 1) % 5)
    found = extraction.run(KEY, model, data, Made(model), Queries(5), pool=data)
    assert found.metrics["agreement"].value == 1 and found.metrics["clone_accuracy"].value == 0
    assert found.metrics["transfer_success_rate"].value is None


def test_who_asks_too_much_is_stopped(linear):
    with pytest.raises(UserError, match="4 more were asked for where 3 are left"):
        run(linear.model, linear, budget=3, asks=4)


def test_without_images_nothing_can_be_asked(linear):
    with pytest.raises(UserError, match="no training images that a thief could ask about"):
        run(linear.model, linear, pool=False)


def test_an_image_that_a_victim_refuses_has_not_fooled_it(linear):
    def refusing(params, x):
        return jnp.append(linear.model.net(params, x), 1e6)

    refusing.rejects = True
    rejecting = Classifier(refusing, linear.model.params)
    assert not extraction.transferred(
        KEY, rejecting, linear.model, linear.data, np.ones(len(linear.data), bool), 0.05, extraction.Runtime()
    ).any()


@pytest.mark.parametrize("n, eps, message", [(0, 0.1, "n = 0"), (5, 0.0, "eps = 0.0"), (5, 2.0, "eps = 2.0")])
def test_a_wrong_budget_is_named(n, eps, message):
    with pytest.raises(UserError, match=message):
        Queries(n, eps)
