"""Published corrupted test sets: folders of .npy files, and TFDS's configurations, as small ones on the disk."""

import numpy as np
import pytest

from robustbench_jax.data import corrupted, load_dataset
from robustbench_jax.registry import build, entry
from robustbench_jax.types import UserError

N = 6


@pytest.fixture
def folder(tmp_path):
    """Image i of severity s has the level 10 * s + i, label i."""
    levels = (10 * np.arange(1, 6)[:, None] + np.arange(N)).reshape(-1).astype(np.uint8)
    np.save(tmp_path / "fog.npy", np.broadcast_to(levels[:, None, None, None], (5 * N, 32, 32, 3)))
    np.save(tmp_path / "labels.npy", np.tile(np.arange(N), 5).astype(np.uint8))
    return tmp_path


@pytest.mark.parametrize("severity", [1, 2, 5])
def test_a_severity_is_its_fifth_of_the_file(folder, severity):
    data = load_dataset(f'cifar10_c("{folder}", "fog", {severity})')
    assert data.x.shape == (N, 32, 32, 3) and data.x.dtype == np.uint8
    np.testing.assert_array_equal(data.x[:, 0, 0, 0], 10 * severity + np.arange(N))
    np.testing.assert_array_equal(data.y, np.arange(N))
    assert data.classes[:2] == ("airplane", "automobile")


def test_a_limit_takes_the_first_images_and_one_too_large_is_refused(folder):
    data = load_dataset(f'cifar10_c("{folder}", "fog", 3)', limit=2)
    np.testing.assert_array_equal(data.x[:, 0, 0, 0], [30, 31])
    with pytest.raises(UserError, match="examples = 7: cifar10_c has 6"):
        load_dataset(f'cifar10_c("{folder}", "fog", 3)', limit=7)


def test_labels_of_one_severity_alone_serve_all_five(folder):
    np.save(folder / "labels.npy", np.arange(N))
    np.testing.assert_array_equal(load_dataset(f'cifar10_c("{folder}", "fog", 4)').y, np.arange(N))


def test_cifar100_has_100_classes(folder):
    assert len(load_dataset(f'cifar100_c("{folder}", "fog", 1)').classes) == 100


@pytest.mark.parametrize(
    "text, wrong",
    [
        ('cifar10_c("x", "frog", 1)', "no corruption 'frog'; did you mean 'fog'?"),
        ('cifar10_c("x", "fog", 6)', "severity = 6 must be 1 to 5; did you mean 5?"),
        ('cifar10_corrupted("fog", 0)', "severity = 0 must be 1 to 5; did you mean 1?"),
        ('imagenet2012_corrupted("glas_blur", 1)', "did you mean 'glass_blur'?"),
    ],
)
def test_unknown_corruptions_and_severities_are_refused(text, wrong):
    with pytest.raises(UserError) as caught:
        load_dataset(text)
    assert wrong in str(caught.value)


def test_there_is_no_training_split(folder):
    with pytest.raises(UserError, match="cifar10_c has no split 'train'"):
        load_dataset(f'cifar10_c("{folder}", "fog", 1)', "train")


def test_a_missing_file_is_named_with_the_way_to_get_it(folder):
    with pytest.raises(UserError, match=r"no file '.*snow.npy'; unpack CIFAR-10-C.tar from zenodo"):
        load_dataset(f'cifar10_c("{folder}", "snow", 1)')


@pytest.mark.parametrize("harm", ["cut", "count", "dtype", "pickle"])
def test_files_of_something_else_are_refused(folder, harm):
    file = folder / "fog.npy"
    if harm == "cut":
        file.write_bytes(file.read_bytes()[:1000])
    elif harm == "count":
        np.save(file, np.zeros((5 * N + 1, 32, 32, 3), np.uint8))
    elif harm == "dtype":
        np.save(file, np.zeros((5 * N, 32, 32, 3), np.int64))
    else:
        np.save(file, np.array([{"a": 1}] * 30), allow_pickle=True)
    with pytest.raises(UserError, match="fog.npy|not 5 severities|no 5 severities|uint8"):
        load_dataset(f'cifar10_c("{folder}", "fog", 1)')


def test_the_configurations_are_those_that_tfds_has():
    known = pytest.importorskip("tensorflow_datasets.image_classification.cifar10_corrupted")
    names = {build("dataset", f'cifar10_corrupted("{name}", 3)').config for name in ALL}
    assert names == {f"cifar10_corrupted/{name}_3" for name in known._CORRUPTIONS}
    glass = build("dataset", 'imagenet2012_corrupted("glass_blur", 2)').config
    assert glass == "imagenet2012_corrupted/glass_blur_2"


@pytest.mark.parametrize(
    "text, config",
    [('cifar10_corrupted("elastic_transform", 5)', "elastic_5"), ('imagenet2012_corrupted("snow", 1)', "snow_1")],
)
def test_what_is_not_prepared_says_how_to_prepare_it(tmp_path, monkeypatch, text, config):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError) as caught:
        load_dataset(text)
    assert f"{config}'" in str(caught.value) and "download_and_prepare" in str(caught.value)
    assert ("ILSVRC2012_img_val.tar" in str(caught.value)) == text.startswith("imagenet")


def test_a_prepared_configuration_is_read_from_the_disk(tmp_path, monkeypatch):
    pytest.importorskip("tensorflow_datasets")
    from tests.data.test_tfds import encoded, pictures, prepare

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    examples = [(encoded(image), i) for i, image in enumerate(pictures(4, (32, 32, 3), start=50))]
    made = prepare(tmp_path, "cifar10_corrupted", (32, 32, 3), {"test": examples}, [str(i) for i in range(10)])
    made.rename(tmp_path / "moved")
    target = tmp_path / "cifar10_corrupted" / "frosted_glass_blur_2"
    target.mkdir(parents=True)
    (tmp_path / "moved").rename(target / "1.0.0")
    data = load_dataset('cifar10_corrupted("glass_blur", 2)')
    assert sorted(zip(data.x[:, 0, 0, 0].tolist(), data.y.tolist(), strict=True)) == [(50 + i, i) for i in range(4)]


def test_each_says_of_which_clean_data_set_it_is():
    for name in ("cifar10_corrupted", "cifar10_c", "cifar100_c", "imagenet2012_corrupted"):
        entry("dataset", entry("dataset", name).facts["clean"].replace("cifar100_c", ""))


ALL = (*corrupted.COMMON, *corrupted.EXTRA)
