"""Reverse engineering: candidates of every kind, what is told of them, and of the victim."""

import jax
import numpy as np
import pytest

from robustbench_jax.attacks.extraction.kennen import told
from robustbench_jax.models import build_model
from robustbench_jax.models.shrunk import smaller
from robustbench_jax.ops.queries import Queries
from robustbench_jax.registry import build
from robustbench_jax.threats import reverse_engineering
from robustbench_jax.types import Dataset, UserError

KEY = jax.random.key(0)
CALL = (
    "kennen(families=['mlp([4])', 'mlp([])'], factors=[1, 2], fronts=['', 'bit_depth(1)'], weights=[''], copies=3, "
    "recipe=sgd(epochs=1, batch_size=16))"
)
RNG = np.random.default_rng(0)
POOL = Dataset(RNG.integers(0, 256, (80, 6, 6, 1), np.uint8), np.arange(80, dtype=np.int32) % 3, tuple("abc"), "noise")


def test_a_record_says_what_the_victim_is_taken_for_and_how_well_candidates_are_told():
    model = build_model("mlp([4])", (6, 6, 1), 3, KEY)
    found = reverse_engineering.run(KEY, model, POOL, build("attack", CALL), Queries(30), pool=POOL)
    assert found.metrics["queries_spent"].value == 30
    assert found.metrics["told_family"].n == 8 and "told_weights" not in found.metrics  # it has one value alone
    assert found.flags[0].startswith("the victim is taken for: family mlp")
    np.testing.assert_array_equal(np.bincount(found.arrays["size_true"]), [4, 4])


def test_models_that_answer_differently_are_told_apart_and_equal_ones_are_not():
    """Two kinds with answers of their own, beside an attribute that shows in nothing."""
    truth = np.stack([np.arange(60) % 2, RNG.integers(0, 2, 60)], -1)
    rows = RNG.normal(size=(60, 20)) + 3 * truth[:, :1] * np.linspace(-1, 1, 20)
    said = told(rows[:40], truth[:40], rows[40:], 1.0)
    assert np.mean(said[:, 0] == truth[40:, 0]) == 1
    assert 0.2 < np.mean(said[:, 1] == truth[40:, 1]) < 0.8


def test_a_smaller_image_is_the_mean_of_squares():
    x = np.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_allclose(smaller(x, 2)[0, :, :, 0], [[2.5, 4.5], [10.5, 12.5]])
    np.testing.assert_array_equal(smaller(x, 1), x)


@pytest.mark.parametrize(
    "text, message",
    [
        ("kennen(copies=1)", "copies"),
        ("kennen(families=[])", "families"),
        ("kennen(families=['mpl'])", "did you mean 'mlp'"),
        ("kennen(fronts=['bit_dept(2)'])", "did you mean 'bit_depth'"),
        ("kennen(factors=[0])", "factors"),
    ],
)
def test_a_wrong_argument_is_named(text, message):
    with pytest.raises(UserError, match=message):
        build("attack", text)


def test_images_that_cannot_be_shrunk_are_refused():
    with pytest.raises(UserError, match="cannot be shrunk by 4"):
        build("attack", "kennen(factors=[1, 4])").require((6, 6, 1))
