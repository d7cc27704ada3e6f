"""Fashion-MNIST: 28x28 grey images of clothes in 10 classes; a part of it is embedded in this package.

Reference: Xiao et al., 2017, arXiv:1708.07747. MIT licence, see embedded/LICENSE.fashion-mnist.
The embedded file is one uint8 array [12000, 785] in npy format, compressed by xz: 784 pixels and the label;
the first 10,000 training images, then the first 2,000 test images. scripts/embed_fashion_mnist.py makes it.
"""

import gzip
import io
import lzma
import zlib
from functools import lru_cache
from importlib import resources
from pathlib import Path

import numpy as np

from robustbench_jax.data import checks, tfds
from robustbench_jax.registry import register
from robustbench_jax.types import Dataset, UserError, record

CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
EMBEDDED = "embedded/fashion_mnist_mini.npy.xz"
TRAIN = 10_000
IDX_FILES = {"train": "train", "test": "t10k"}
IDX_PARTS = ("images-idx3", "labels-idx1")
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@register("dataset", "fashion_mnist_mini", paper="xiao2017")
@record
class FashionMNISTMini:
    """The first 10,000 training and 2,000 test images, embedded: always there."""

    def available(self) -> bool:
        return True

    def load(self, split: str, limit: int | None) -> Dataset:
        rows = _embedded()[:TRAIN] if split == "train" else _embedded()[TRAIN:]
        return checks.dataset(rows[:, :-1].reshape(-1, 28, 28, 1), rows[:, -1], CLASSES, "fashion_mnist_mini")


@register("dataset", "fashion_mnist", paper="xiao2017")
@record
class FashionMNIST:
    """All 60,000 + 10,000 images: the files of Debian's package dataset-fashion-mnist, else TFDS.

    TFDS keeps no original order: the same images come in another order, and the digest differs.
    """

    def available(self) -> bool:
        return _debian() or tfds.prepared("fashion_mnist") is not None

    def how_to_get(self) -> str:
        return f"apt-get install dataset-fashion-mnist, or {tfds.how_to_get('fashion_mnist')}"

    def load(self, split: str, limit: int | None) -> Dataset:
        if not _debian():
            return tfds.load("fashion_mnist", split, limit, CLASSES)
        x, y = (read_idx(idx_file(split, part)) for part in IDX_PARTS)
        return checks.dataset(x, y, CLASSES, "fashion_mnist")


def idx_file(split: str, part: str) -> Path:
    """Where Debian's package puts the images ("images-idx3") and labels ("labels-idx1") of a split."""
    return DEBIAN / f"{IDX_FILES[split]}-{part}-ubyte.gz"


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array in a gzipped file of MNIST's IDX format. Raises UserError for any other file."""
    try:
        raw = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is no gzip file, or cut short: {error}") from None
    wrong = UserError(f"{path}: no IDX file of unsigned bytes, or cut short")
    if raw[:3] != b"\0\0\x08" or len(raw) < 4 or len(raw) < 4 + 4 * raw[3]:
        raise wrong
    shape = np.frombuffer(raw, ">u4", raw[3], 4).astype(int)
    if len(raw) != 4 + 4 * len(shape) + int(np.prod(shape)):
        raise wrong
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


def _debian() -> bool:
    return all(idx_file(split, part).is_file() for split in IDX_FILES for part in IDX_PARTS)


@lru_cache(maxsize=1)
def _embedded() -> np.ndarray:
    packed = resources.files("robustbench_jax.data").joinpath(EMBEDDED).read_bytes()
    return np.load(io.BytesIO(lzma.decompress(packed)))
