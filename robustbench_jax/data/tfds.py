"""Public datasets through TensorFlow Datasets, read from the disk without TensorFlow.

A dataset prepared in a random-access file format (array_record) under $TFDS_DATA_DIR, or ~/tensorflow_datasets, is
read example by example; nothing is downloaded here.
"""

import os
from pathlib import Path

import numpy as np

from robustbench_jax.data import checks
from robustbench_jax.registry import register
from robustbench_jax.types import Dataset, UserError, record

DIGITS = tuple("0123456789")
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def directory() -> Path:
    return Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


def prepared(name: str) -> Path | None:
    """The newest prepared version of a dataset on this disk."""
    versions = [info.parent for info in (directory() / name).glob("*/dataset_info.json")]
    return max(versions, key=lambda path: [int(part) if part.isdigit() else 0 for part in path.name.split(".")],
               default=None)


def how_to_get(name: str) -> str:
    return (f"with TensorFlow installed once, run python -c \"import tensorflow_datasets as tfds; "
            f"tfds.builder('{name}', file_format='array_record').download_and_prepare()\"")


def load(name: str, split: str, limit: int | None, classes: tuple[str, ...] | None) -> Dataset:
    """The first `limit` examples of a prepared dataset whose images all have one size."""
    source, names = open_source(name, split, limit)
    examples = [source[i] for i in range(len(source))]
    x, y = np.stack([e["image"] for e in examples]), np.array([e["label"] for e in examples])
    return checks.dataset(x, y, classes or names, name)


def open_source(name: str, split: str, limit: int | None):
    """A random-access sequence of {"image", "label", ...} and the names of the classes."""
    import tensorflow_datasets

    where = prepared(name)
    if where is None:
        raise UserError(f"dataset '{name}' is not prepared in {directory()}: {how_to_get(name)}")
    try:
        builder = tensorflow_datasets.builder_from_directory(str(where))
        if limit is not None and limit > builder.info.splits[split].num_examples:
            raise UserError(f"examples = {limit}: {name} has {builder.info.splits[split].num_examples} in '{split}'")
        source = builder.as_data_source(split=split if limit is None else f"{split}[:{limit}]")
    except NotImplementedError:
        raise UserError(f"{where} is in a file format without random access; delete it and prepare it again: "
                        f"{how_to_get(name)}") from None
    return source, tuple(builder.info.features["label"].names)


class Prepared:
    """What the datasets of this family share."""

    @property
    def name(self) -> str:
        return self.registered[1]

    def available(self) -> bool:
        return prepared(self.name) is not None

    def how_to_get(self) -> str:
        return how_to_get(self.name)

    def load(self, split: str, limit: int | None) -> Dataset:
        return load(self.name, split, limit, self.classes)


@register("dataset", "mnist", paper="lecun1998")
@record
class MNIST(Prepared):
    """60,000 + 10,000 handwritten digits, 28x28x1 (LeCun et al., 1998)."""

    classes = DIGITS


@register("dataset", "cifar10", paper="krizhevsky2009")
@record
class CIFAR10(Prepared):
    """50,000 + 10,000 images in 10 classes, 32x32x3 (Krizhevsky, 2009)."""

    classes = CIFAR10_CLASSES


@register("dataset", "cifar100", paper="krizhevsky2009")
@record
class CIFAR100(Prepared):
    """50,000 + 10,000 images in 100 classes, 32x32x3 (Krizhevsky, 2009)."""

    classes = None


@register("dataset", "svhn_cropped", paper="netzer2011")
@record
class SVHN(Prepared):
    """73,257 + 26,032 house numbers, 32x32x3 (Netzer et al., 2011)."""

    classes = DIGITS


@register("dataset", "imagenet2012", paper="russakovsky2015")
@record
class ImageNet(Prepared):
    """1,281,167 training and 50,000 validation images ("test" here), 1,000 classes (Russakovsky et al., 2015).

    resize: the shorter side before the centre crop; size: the side of the crop. Only what is asked for is decoded.
    """

    size: int = 224
    resize: int = 256

    def load(self, split: str, limit: int | None) -> Dataset:
        from robustbench_jax.data.image_folder import centre_crop

        source, classes = open_source(self.name, "validation" if split == "test" else split, limit)
        x = np.empty((len(source), self.size, self.size, 3), np.uint8)
        y = np.empty(len(source), np.int64)
        for i in range(len(source)):
            example = source[i]
            x[i], y[i] = centre_crop(example["image"], self.size, self.resize), example["label"]
        return checks.dataset(x, y, classes, self.name)
