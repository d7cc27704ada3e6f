"""What every file of images must satisfy (data/checks.py), and what the embedded images are, bit by bit."""

import numpy as np
import pytest

from robustbench_jax.data import checks, load_dataset
from robustbench_jax.types import UserError

X = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
Y = np.array([1, 0])


@pytest.mark.parametrize(
    "split, digest",
    [
        ("train", "324438ca3bc6271d4785f04175bdee55151abb07d502e782b3ad4677ae279882"),
        ("test", "99717ada1e757cb7217b5a252458bc9c7e0ec2eafbf23e9a4efbaf36443d473f"),
    ],
)
def test_the_embedded_images_are_those_that_shipped_results_were_measured_on(split, digest):
    assert load_dataset("fashion_mnist_mini", split).digest == digest


def test_the_digest_sees_images_labels_class_names_and_shape_but_not_the_name():
    data = checks.dataset(X, Y, ("a", "b"), "mine")
    brighter = X.copy()
    brighter[1, 3, 4, 2] += 1
    others = [
        checks.dataset(brighter, Y, ("a", "b"), "mine"),
        checks.dataset(X, 1 - Y, ("a", "b"), "mine"),
        checks.dataset(X, Y, ("a", "c"), "mine"),
        checks.dataset(X.reshape(2, 5, 4, 3), Y, ("a", "b"), "mine"),
    ]
    assert len({data.digest, *(other.digest for other in others)}) == 5
    assert checks.dataset(X / 255, Y.astype(np.uint8), ("a", "b"), "yours").digest == data.digest


def test_images_out_of_order_in_memory_become_contiguous_with_the_same_digest():
    turned = np.ascontiguousarray(X.transpose(2, 0, 1, 3)).transpose(1, 2, 0, 3)
    data = checks.dataset(turned, Y, ("a", "b"), "mine")
    assert not turned.flags.c_contiguous and data.x.flags.c_contiguous
    assert data.digest == checks.dataset(X, Y, ("a", "b"), "mine").digest


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_any_number_of_channels_passes_where_the_first_axis_is_not_the_channels(channels):
    assert checks.images(np.zeros((2, 5, 6, channels), np.uint8), "mine").shape == (2, 5, 6, channels)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 1, 28, 28), (2, 3, 8, 2)])
def test_channels_first_is_refused(shape):
    with pytest.raises(UserError, match="mine: images have shape .*: channels first, not last"):
        checks.images(np.zeros(shape, np.uint8), "mine")


@pytest.mark.parametrize(
    "x", [X.astype(np.int32), X.astype(bool), X.astype(complex), X.astype(str)], ids=lambda x: str(x.dtype)
)
def test_images_of_another_type_are_refused(x):
    with pytest.raises(UserError, match=f"mine: images are {x.dtype}; uint8, or floats"):
        checks.images(x, "mine")


@pytest.mark.parametrize("value, shown", [(1.001, r"\[0, 1.001\]"), (-0.001, r"\[-0.001, 0\]")])
def test_floats_just_outside_the_box_are_refused_and_its_corners_are_not(value, shown):
    x = np.zeros((1, 2, 2, 1))
    x[0, 0, 0] = value
    with pytest.raises(UserError, match=f"mine: images lie in {shown}"):
        checks.images(x, "mine")
    assert checks.images(np.clip(x, 0, 1), "mine")[0, 0, 0, 0] == (255 if value > 0 else 0)


@pytest.mark.parametrize(
    "y, classes, message",
    [
        ([0, 2], 2, "label 2 is out of range; 0 to 1 are classes"),
        ([-1, 0], 2, "label -1 is out of range"),
        ([0.0, 1.0], 2, "labels are float64; whole numbers are needed"),
        ([True, False], 2, "labels are bool; whole numbers are needed"),
        ([0, 1, 1], 2, r"labels have shape \[3\]; 2 images need \[2\]"),
        (1, 2, r"labels have shape \[\]; 2 images need \[2\]"),
        ([[0, 1], [1, 0]], 2, r"labels have shape \[2, 2\]"),
    ],
)
def test_labels_that_do_not_number_the_classes_are_refused(y, classes, message):
    with pytest.raises(UserError, match=f"mine: {message}"):
        checks.labels(np.array(y), 2, classes, "mine")


def test_classes_without_names_are_numbered_over_all_splits():
    assert checks.numbered([np.array([0, 1]), np.array([3])], "mine") == ("0", "1", "2", "3")
    assert len(checks.numbered([np.array([checks.MOST_CLASSES - 1])], "mine")) == checks.MOST_CLASSES


@pytest.mark.parametrize(
    "labels, message",
    [
        ([[0, 1], [100_000]], "label 100000 is out of range; it must be below 100,000"),
        ([[0, 1], []], r"labels have shape \[0\]; a number for each of at least one image is needed"),
        ([[0, 1], [[0, 1], [1, 0]]], r"labels have shape \[2, 2\]; a number for each of at least one image is needed"),
        ([[0, 1], [0.5]], "labels are float64; whole numbers are needed"),
        ([["cat", "dog"]], "labels are <U3; whole numbers are needed"),
    ],
)
def test_labels_that_cannot_be_numbered_are_refused(labels, message):
    with pytest.raises(UserError, match=f"mine: {message}"):
        checks.numbered([np.array(y) for y in labels], "mine")


def test_a_limit_above_the_number_of_examples_is_refused():
    checks.enough(5, None, "mine")
    checks.enough(5, 5, "mine")
    with pytest.raises(UserError, match="examples = 6: mine has 5, so give 1 to 5"):
        checks.enough(5, 6, "mine")
