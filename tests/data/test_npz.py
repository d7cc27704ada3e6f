"""npz("file.npz"): what is read, and what is refused with the file and the value."""

import numpy as np
import pytest

from robustbench_jax.data import load_dataset
from robustbench_jax.types import UserError

X = np.arange(4 * 5 * 6 * 3, dtype=np.uint8).reshape(4, 5, 6, 3)
Y = np.array([0, 2, 1, 2])


@pytest.fixture
def load(tmp_path):
    def save_and_load(split="test", limit=None, **arrays):
        np.savez(tmp_path / "my.npz", **arrays)
        return load_dataset(f'npz("{tmp_path}/my.npz")', split, limit)

    return save_and_load


def test_x_and_y_are_served_as_either_split(load):
    for split in ("train", "test"):
        data = load(split, x=X, y=Y)
        np.testing.assert_array_equal(data.x, X)
        assert data.y.tolist() == Y.tolist() and data.y.dtype == np.int32
        assert data.classes == ("0", "1", "2")


def test_each_split_has_its_own_arrays_and_the_classes_are_those_of_both(load):
    arrays = dict(x_train=X, y_train=Y, x_test=X[:2], y_test=Y[:2] // 2, classes=["cat", "dog", "emu"])
    assert load("train", **arrays).y.tolist() == [0, 2, 1, 2]
    assert load("test", **arrays).y.tolist() == [0, 1]
    assert load("test", **arrays).classes == ("cat", "dog", "emu")
    del arrays["classes"]
    assert load("test", **arrays).classes == ("0", "1", "2")


def test_floats_become_the_nearest_of_256_levels(load):
    for dtype in (np.float16, np.float32, np.float64):
        np.testing.assert_array_equal(load(x=(X / 255).astype(dtype), y=Y).x, X)
    assert load(x=np.full((1, 1, 1, 1), 0.501), y=[0]).x.item() == 128


def test_images_without_a_channel_axis_get_one(load):
    assert load(x=X[..., 0], y=Y).x.shape == (4, 5, 6, 1)


def test_limit_takes_the_first_examples(load):
    assert load(limit=3, x=X, y=Y).y.tolist() == [0, 2, 1]
    with pytest.raises(UserError, match="examples = 5.*has 4"):
        load(limit=5, x=X, y=Y)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(y=[0, 1, 2, -1]), "label -1 is out of range"),
        (dict(y=[0, 1, 2, 3], classes=["a", "b", "c"]), "label 3 is out of range; 0 to 2"),
        (dict(y=np.array([0, 1, 2, 2**32 - 1])), "label 4294967295 is out of range"),
        (dict(y=Y[:3]), r"labels have shape \[3\]; 4 images need \[4\]"),
        (dict(y=Y[:, None]), r"labels have shape \[4, 1\]"),
        (dict(y=Y / 2), "labels are float64; whole numbers are needed"),
        (dict(y=np.array(["a", "b", "c", "d"])), "labels are <U1; whole numbers are needed"),
        (dict(x=X[0], y=Y[:3]), r"labels have shape \[3\]; 5 images"),
        (dict(x=X[0, 0]), r"images have shape \[6, 3\]"),
        (dict(x=X[:0], y=Y[:0]), "at least one"),
        (dict(x=X[:0]), r"images have shape \[0, 5, 6, 3\]"),
        (dict(x=X.transpose(0, 3, 1, 2)), r"images have shape \[4, 3, 5, 6\].*channels first"),
        (dict(x=X.astype(np.float32)), r"images lie in \[0, 255\]"),
        (dict(x=X / 255 - 0.1), r"images lie in \[-0.1,"),
        (dict(x=np.where(X == 7, np.nan, X / 255)), "NaN"),
        (dict(x=np.where(X == 7, np.inf, X / 255)), "NaN or infinity"),
        (dict(x=X.astype(np.int64)), "images are int64; uint8"),
        (dict(classes=[["a", "b", "c"]]), r"classes have shape \[1, 3\]"),
        (dict(x=np.array([None] * 4)), "no npz file"),
    ],
)
def test_what_is_no_image_set_is_refused_with_file_and_value(load, change, message):
    with pytest.raises(UserError, match=f"my.npz.*{message}"):
        load(**(dict(x=X, y=Y) | change))


def test_missing_keys_are_named(load):
    with pytest.raises(UserError, match="holds x; y, or x_test and y_test, must be there"):
        load(x=X)
    with pytest.raises(UserError, match="x_train, y_train; x and y, or x_test and y_test, must"):
        load(x_train=X, y_train=Y)
    with pytest.raises(UserError, match="x_test; y_test must be there"):
        load(x_test=X)


@pytest.mark.parametrize("keep", [0, 10, 100, 300, -30, -1])
def test_a_truncated_file_is_refused(tmp_path, keep):
    path = tmp_path / "cut.npz"
    np.savez_compressed(path, x=np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), np.uint8), y=Y)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match="cut.npz is no npz file, or cut short"):
        load_dataset(f'npz("{path}")')


def test_a_flipped_byte_is_never_read_as_an_image(tmp_path):
    path = tmp_path / "flipped.npz"
    x = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), np.uint8)
    np.savez_compressed(path, x=x, y=Y)
    raw = path.read_bytes()
    for place in range(0, len(raw), 7):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 0x55]) + raw[place + 1 :])
        try:
            data = load_dataset(f'npz("{path}")')
        except UserError:
            continue
        np.testing.assert_array_equal(data.x, x)
        assert data.y.tolist() == Y.tolist()


def test_an_npy_file_is_no_npz_file(tmp_path):
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(UserError, match="x.npy is no npz file"):
        load_dataset(f'npz("{tmp_path}/x.npy")')


def test_a_file_that_is_not_there_says_how_to_write_one():
    with pytest.raises(UserError, match="no file 'nowhere.npz'.*numpy.savez.*fashion_mnist_mini"):
        load_dataset('npz("nowhere.npz")')
