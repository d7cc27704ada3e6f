"""The nouns: what is traced, what is static, and that two kinds of record never pass for one another."""

import jax
import numpy as np
import pytest

from robustbench_jax.registry import build
from robustbench_jax.types import Dataset, UserError, record


@record
class One:
    size: float
    name: str = "a"


@record
class Other:
    size: float
    name: str = "a"


def test_numbers_are_traced_and_words_are_static():
    assert jax.tree.leaves(One(2.0)) == [2.0]
    assert jax.tree.structure(One(2.0)) == jax.tree.structure(One(3.0))
    assert jax.tree.structure(One(2.0)) != jax.tree.structure(One(2.0, "b"))


def test_two_classes_with_the_same_fields_have_different_structures():
    """What jit looks its programs up by: were they equal, one class would run the other's program."""
    assert jax.tree.structure(One(2.0)) != jax.tree.structure(Other(2.0))
    balls = [jax.tree.structure(build("budget", f"{name}(1)")) for name in ("linf", "l2", "l1", "l0", "severity")]
    assert len(set(balls)) == len(balls) and all(a != b for i, a in enumerate(balls) for b in balls[:i])


def test_a_record_survives_flattening_and_is_not_checked_again():
    ball = build("budget", "linf(0.1)")
    leaves, structure = jax.tree.flatten(ball)
    assert jax.tree.unflatten(structure, leaves) == ball
    assert jax.tree.unflatten(structure, [-1.0]).eps == -1.0  # gradients of records may be negative


def test_a_digest_tells_images_labels_and_classes_apart():
    x, y = np.zeros((2, 2, 2, 1), np.uint8), np.array([0, 1], np.int32)
    base = Dataset(x, y, ("a", "b"), "one")
    assert base.digest == Dataset(x.copy(), y.copy(), ("a", "b"), "another name").digest
    for changed in (
        Dataset(x + 1, y, ("a", "b"), ""),
        Dataset(x, y[::-1], ("a", "b"), ""),
        Dataset(x, y, ("a", "c"), ""),
    ):
        assert changed.digest != base.digest


@pytest.mark.parametrize("n", [0, -1, 3])
def test_more_or_fewer_examples_than_there_are_is_refused(n):
    data = Dataset(np.zeros((2, 2, 2, 1), np.uint8), np.array([0, 1]), ("a", "b"), "two")
    with pytest.raises(UserError, match=f"examples = {n}: two has 2"):
        data.take(n)
