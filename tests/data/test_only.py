"""only(): some of a dataset's classes, numbered anew under their names, in both splits."""

import numpy as np
import pytest

from robustbench_jax.data import load_dataset
from robustbench_jax.registry import build
from robustbench_jax.types import UserError


@pytest.fixture
def four(tmp_path):
    """The call string of 12 images, of which number i is of class i % 4 and has pixels i."""
    x = np.broadcast_to(np.arange(12, dtype=np.uint8)[:, None, None, None], (12, 4, 4, 1))
    y = np.arange(12) % 4
    np.savez(tmp_path / "four.npz", x_train=x, y_train=y, x_test=x[:8], y_test=y[:8], classes=list("abcd"))
    return f"npz('{tmp_path / 'four.npz'}')"


def test_the_examples_of_the_classes_are_kept_and_numbered_in_the_order_that_was_given(four):
    data = load_dataset(f"only({four}, [3, 1])", "train")
    assert data.x[:, 0, 0, 0].tolist() == [1, 3, 5, 7, 9, 11] and data.y.tolist() == [1, 0, 1, 0, 1, 0]
    assert data.classes == ("d", "b") and data.y.dtype == np.int32
    test = load_dataset(f"only({four}, [3, 1])", "test", 3)
    assert test.x[:, 0, 0, 0].tolist() == [1, 3, 5] and test.y.tolist() == [1, 0, 1]


def test_two_halves_have_no_class_and_no_image_in_common(four):
    one, other = (load_dataset(f"only({four}, {half})", "train") for half in ([0, 2], [1, 3]))
    assert not set(one.classes) & set(other.classes) and len(one) + len(other) == 12
    assert not set(one.x[:, 0, 0, 0]) & set(other.x[:, 0, 0, 0])


@pytest.mark.parametrize("classes", ["[1]", "[0, 0]", "[0, -1]", "2"])
def test_what_is_no_list_of_classes_is_named(four, classes):
    with pytest.raises(UserError, match="only.*: classes = .* must be a "):
        build("dataset", f"only({four}, {classes})")


def test_a_class_that_is_not_there_is_named(four):
    with pytest.raises(UserError, match=r"only: classes = \(0, 4\): those of .*four.npz have numbers 0 to 3"):
        load_dataset(f"only({four}, [0, 4])")
