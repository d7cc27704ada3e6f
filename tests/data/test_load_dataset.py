"""load_dataset: splits, limits, names, and the registry's view of datasets."""

import pytest

from robustbench_jax.data import load_dataset
from robustbench_jax.registry import build, canonical, discover
from robustbench_jax.types import UserError

ARGUMENTS = {
    "adult": '"nowhere"',
    "coarse": "fashion_mnist_mini, [[0], [1, 2, 3, 4, 5, 6, 7, 8, 9]]",
    "npz": '"nowhere"',
    "image_folder": '"nowhere"',
    "cifar10_c": '"nowhere", "fog", 3',
    "cifar100_c": '"nowhere", "fog", 3',
    "cifar10_corrupted": '"fog", 3',
    "imagenet2012_corrupted": '"fog", 3',
    "joined": '[fashion_mnist_mini, npz("nowhere")]',
    "only": "fashion_mnist_mini, [0, 1]",
    "part": "fashion_mnist_mini, 0, 5",
    "pseudo_labelled": 'npz("nowhere"), zoo("fashion_mnist/clean/standard")',
    "verified": 'fashion_mnist_mini, "nowhere.json", "nobody"',
}


def test_every_registered_dataset_can_say_whether_it_is_here_and_how_to_get_it():
    names = discover("dataset")
    assert {
        "fashion_mnist_mini",
        "fashion_mnist",
        "mnist",
        "cifar10",
        "cifar100",
        "svhn_cropped",
        "imagenet2012",
        "npz",
        "image_folder",
    } <= set(names)
    for name in names:
        source = build("dataset", f"{name}({ARGUMENTS.get(name, '')})")
        assert source.available() in (True, False)
        assert source.available() or source.how_to_get()


def test_the_embedded_dataset_is_always_here():
    assert build("dataset", "fashion_mnist_mini").available()


def test_a_limit_gives_the_first_examples_under_the_same_name():
    data = load_dataset("fashion_mnist_mini", limit=7)
    assert len(data) == 7 and data.name == "fashion_mnist_mini"
    assert data.digest == load_dataset("fashion_mnist_mini").take(7).digest
    assert data.digest != load_dataset("fashion_mnist_mini", limit=8).digest


def test_the_two_splits_have_different_digests():
    train, test = (load_dataset("fashion_mnist_mini", split, 50) for split in ("train", "test"))
    assert train.digest != test.digest


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("fashion_mnist_mimi",), "no dataset 'fashion_mnist_mimi'; did you mean 'fashion_mnist_mini'"),
        (("fashion_mnist_mini", "validation"), "no split 'validation'; there are: train, test"),
        (("fashion_mnist_mini", "test", 2001), "examples = 2001.*has 2000"),
        (("fashion_mnist_mini", "test", 0), "examples = 0 must be"),
        (("fashion_mnist_mini", "test", -3), "examples = -3 must be"),
        (("fashion_mnist_mini", "test", 2.5), "examples = 2.5 must be"),
        (("fashion_mnist_mini(5)",), "takes no arguments"),
        (("npz",), "dataset 'npz' needs 'path'"),
        (("npz(5)",), "path = 5 must be a str"),
        (('image_folder("a", sise=3)',), "no argument 'sise'; did you mean 'size'"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        load_dataset(*arguments)
    assert "\n" not in str(caught.value)


def test_the_identity_of_a_dataset_writes_its_defaults_out():
    assert canonical("dataset", 'image_folder("pets")') == "image_folder(path='pets', size=None, grey=False)"
