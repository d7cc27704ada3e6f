"""Public datasets through TensorFlow Datasets, read from the disk without TensorFlow.

A dataset prepared in a random-access file format (array_record) under $TFDS_DATA_DIR or ~/tensorflow_datasets
is read example by example; nothing is downloaded here. TFDS shuffles what it prepares: CIFAR-10, CIFAR-100
and SVHN keep ids, which give the original order back; MNIST and ImageNet stay in TFDS's order, the same on
every machine.
"""

import io
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robustbench_jax.data import checks
from robustbench_jax.data.pictures import centre_crop, decode
from robustbench_jax.registry import register
from robustbench_jax.types import Dataset, UserError, record, require_positive

DIGITS = tuple("0123456789")
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def directory() -> Path:
    return Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()


def prepared(name: str) -> Path | None:
    """The newest prepared version of a dataset on this disk."""
    versions = [info.parent for info in (directory() / name).glob("*/dataset_info.json")]
    return max(versions, key=lambda path: [int(part) for part in re.findall(r"\d+", path.name)], default=None)


def how_to_get(name: str, before: str = "") -> str:
    """TensorFlow is needed by the builders that prepare these datasets, and never again.

    So is importlib_resources, which TFDS 4.9.10 imports without requiring it.
    """
    program = f"tfds.builder('{name}', file_format='array_record').download_and_prepare()"
    return (
        f"{before}with TensorFlow for this once (pip install tensorflow importlib_resources), run "
        f'python -c "import tensorflow_datasets as tfds; {program}"'
    )


@dataclass(frozen=True)
class Source:
    """One prepared split: `examples[i]` is {"image": encoded bytes, "label": int, ...}."""

    name: str
    examples: Sequence
    classes: tuple[str, ...]
    grey: bool
    ids: bool

    def image(self, example: dict) -> np.ndarray:
        return decode(io.BytesIO(example["image"]), f"an image of {self.name}", grey=self.grey)

    def first(self, limit: int | None) -> Iterator[dict]:
        """The first examples, in the order of their ids where they have one, else in TFDS's own order."""
        count = len(self.examples)
        checks.enough(count, limit, self.name)
        if not self.ids:
            return (self.examples[i] for i in range(limit or count))
        every = (self.examples[i] for i in range(count))
        return iter(sorted(every, key=lambda example: example["id"])[:limit])


def load(name: str, split: str, limit: int | None, classes: tuple[str, ...] | None) -> Dataset:
    """The first `limit` examples of a prepared dataset whose images all have one size."""
    with opened(name, split) as source:
        pairs = [(source.image(example), example["label"]) for example in source.first(limit)]
    x, y = np.stack([image for image, _ in pairs]), np.array([label for _, label in pairs])
    return checks.dataset(x, y, classes or source.classes, name)


@contextmanager
def opened(name: str, split: str) -> Iterator[Source]:
    """UserError, here or in the body, for a dataset that is not prepared, damaged or in another format."""
    where = prepared(name)
    if where is None:
        raise UserError(f"dataset '{name}' is not prepared in {directory()}: {how_to_get(name)}")
    again = f"delete {where} and prepare it again: {how_to_get(name)}"
    try:
        yield _open(name, where, split)
    except UserError:
        raise
    except NotImplementedError:
        raise UserError(f"{name} is in a file format without random access; {again}") from None
    except Exception as error:  # whatever TFDS raises for files that are cut short or missing
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{name} cannot be read ({reason}); {again}") from None


def _open(name: str, where: Path, split: str) -> Source:
    import tensorflow_datasets

    builder = tensorflow_datasets.builder_from_directory(str(where))
    encoded = {"image": tensorflow_datasets.decode.SkipDecoding()}
    examples = builder.as_data_source(split=split, decoders=encoded)
    features = builder.info.features
    grey = features["image"].shape[-1] == 1
    return Source(name, examples, tuple(features["label"].names), grey, "id" in features)


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
    """1,281,167 training and 50,000 validation images (split "test") of 1,000 classes (Russakovsky et al.).

    Reference: Russakovsky et al., IJCV, 2015, arXiv:1409.0575.
    resize: the shorter side before the centre crop; size: the side of the crop. Only `limit` images are read.
    """

    classes = None
    size: int = 224
    resize: int = 256

    def __post_init__(self):
        require_positive("imagenet2012", size=self.size)
        if self.resize < self.size:
            raise UserError(f"imagenet2012: resize = {self.resize} must be at least size = {self.size}")

    def how_to_get(self) -> str:
        files = "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from image-net.org"
        return how_to_get(self.name, f"put {files} into {directory()}/downloads/manual, then ")

    def load(self, split: str, limit: int | None) -> Dataset:
        with opened(self.name, "validation" if split == "test" else split) as source:
            x, y = self._cropped(source, limit)
        return checks.dataset(x, y, source.classes, self.name)

    def _cropped(self, source: Source, limit: int | None) -> tuple[np.ndarray, np.ndarray]:
        examples, count = source.first(limit), limit or len(source.examples)
        x, y = np.empty((count, self.size, self.size, 3), np.uint8), np.empty(count, np.int64)
        for i, example in enumerate(examples):
            x[i], y[i] = centre_crop(source.image(example), self.size, self.resize), example["label"]
        return x, y
