"""Datasets made of others: several joined into one, and labels that a trained model gives."""

import jax
import numpy as np
import pytest

from robustbench_jax.data import load_dataset
from robustbench_jax.models import build_model, files
from robustbench_jax.ops.judge import classify
from robustbench_jax.types import UserError


@pytest.fixture
def made(tmp_path):
    """A function that writes an npz file of `count` images and gives its call string."""

    def write(name, count, shape=(4, 4, 1), classes=3):
        rng = np.random.default_rng(count)
        x, y = rng.integers(0, 256, (count, *shape), np.uint8), np.arange(count) % classes
        np.savez(tmp_path / f"{name}.npz", x=x, y=y)
        return f"npz('{tmp_path / name}.npz')"

    return write


def test_training_images_are_those_of_all_and_test_images_those_of_the_first(made):
    own, extra, more = made("own", 9), made("extra", 5, classes=2), made("more", 4)
    joined = load_dataset(f"joined([{own}, {extra}, {more}])", "train")
    parts = [load_dataset(text, "train") for text in (own, extra, more)]
    np.testing.assert_array_equal(joined.x, np.concatenate([part.x for part in parts]))
    np.testing.assert_array_equal(joined.y, np.concatenate([part.y for part in parts]))
    assert joined.y.dtype == np.int32 and joined.classes == ("0", "1", "2")
    test = load_dataset(f"joined([{own}, {extra}])", "test")
    np.testing.assert_array_equal(test.x, parts[0].x)
    assert len(load_dataset(f"joined([{own}, {extra}])", "train", 11)) == 11


def test_shapes_and_classes_that_do_not_agree_are_named(made, tmp_path):
    own, wide, more = made("own", 9), made("wide", 4, shape=(5, 4, 1)), made("more", 8, classes=4)
    with pytest.raises(UserError, match=r"wide.npz have shape \[5, 4, 1\], those of .*own.npz have \[4, 4, 1\]"):
        load_dataset(f"joined([{own}, {wide}])", "train")
    with pytest.raises(UserError, match="joined: the 4 classes of .*more.npz"):
        load_dataset(f"joined([{own}, {more}])", "train")
    np.savez(tmp_path / "named.npz", x=np.zeros((3, 4, 4, 1), np.uint8), y=np.arange(3), classes=np.array(list("abc")))
    with pytest.raises(UserError, match="the 3 classes of .*named.npz are a, b, c"):
        load_dataset(f"joined([{own}, npz('{tmp_path}/named.npz')])", "train")
    assert load_dataset(f"joined([npz('{tmp_path}/named.npz'), {own}])", "train").classes == ("a", "b", "c")


@pytest.mark.parametrize(
    "text, message",
    [
        ("joined([])", "joined needs a list of datasets"),
        ("joined(npz('a.npz'))", "joined needs a list of datasets"),
        ("joined([fashion_mnist_mini, npz('none.npz')])", "of it 'npz' is missing: there is no file 'none.npz'"),
        ("pseudo_labelled(npz('none.npz'), zoo('fashion_mnist/clean/standard'))", "there is no file 'none.npz'"),
        ("pseudo_labelled(fashion_mnist_mini, zoo('fashion_mnist/clean/standrad'))", "did you mean"),
    ],
)
def test_wrong_arguments_are_named(text, message):
    with pytest.raises(UserError, match=message):
        load_dataset(text, "train")


@pytest.fixture
def teacher(tmp_path):
    model = build_model("mlp([6])", (4, 4, 1), 3, jax.random.key(3))
    files.save(tmp_path / "teacher" / files.MODEL, model, files.describe(model, "mlp([6])", (4, 4, 1), 3))
    return model, f"checkpoint('{tmp_path / 'teacher'}')"


def test_labels_for_training_are_the_teachers_and_those_for_the_test_the_files_own(made, teacher):
    model, text = teacher
    own, extra = made("own", 9), made("extra", 40, classes=1)
    labelled = load_dataset(f"pseudo_labelled({extra}, {text})", "train")
    np.testing.assert_array_equal(labelled.y, classify(model, labelled.x))
    assert len(set(labelled.y)) > 1 and labelled.classes == ("0", "1", "2") and labelled.y.dtype == np.int32
    assert (load_dataset(f"pseudo_labelled({extra}, {text})", "test").y == 0).all()
    joined = load_dataset(f"joined([{own}, pseudo_labelled({extra}, {text})])", "train")
    np.testing.assert_array_equal(joined.y[9:], labelled.y)


def test_a_teacher_of_other_images_is_refused(made, teacher):
    with pytest.raises(UserError, match=r"the teacher does not take images of shape \[5, 5, 1\]"):
        load_dataset(f"pseudo_labelled({made('extra', 4, shape=(5, 5, 1))}, {teacher[1]})", "train")
