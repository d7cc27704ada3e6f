"""Published corrupted test sets: CIFAR-10-C, CIFAR-100-C and ImageNet-C.

cifar10_corrupted and imagenet2012_corrupted are prepared by TFDS, a configuration for each corruption and severity;
cifar10_c and cifar100_c are the folders of .npy files that the authors publish: CORRUPTION.npy of uint8
[5 * 10,000, 32, 32, 3], the five severities one after another, and labels.npy. All of them have a test split only.

Reference: Hendrycks & Dietterich, ICLR 2019, arXiv:1903.12261.
"""

from pathlib import Path

import numpy as np

from robustbench_jax.data import checks, tfds
from robustbench_jax.registry import nearest, register
from robustbench_jax.types import Dataset, UserError, record

COMMON = (
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
SEVERITIES = 5
RENAMED = {"glass_blur": "frosted_glass_blur", "elastic_transform": "elastic"}  # as TFDS calls them for CIFAR-10
ARCHIVES = {"CIFAR-10-C": "zenodo.org/records/2535967", "CIFAR-100-C": "zenodo.org/records/3555552"}


class Corrupted:
    """What all of them share: `corruption` is one of COMMON or EXTRA, `severity` 1 to 5."""

    corruption: str
    severity: int

    def __post_init__(self):
        known = (*COMMON, *EXTRA)
        if self.corruption not in known:
            raise UserError(f"no corruption '{self.corruption}'{nearest(self.corruption, known)}")
        if not 1 <= self.severity <= SEVERITIES:
            closest = min(max(self.severity, 1), SEVERITIES)
            raise UserError(f"severity = {self.severity} must be 1 to {SEVERITIES}; did you mean {closest}?")

    @property
    def name(self) -> str:
        return self.registered[1]


class PreparedByTFDS(Corrupted):
    """One configuration of a dataset of TFDS."""

    renamed: dict[str, str] = {}
    classes: tuple[str, ...] | None = None

    @property
    def config(self) -> str:
        return f"{self.name}/{self.renamed.get(self.corruption, self.corruption)}_{self.severity}"

    def available(self) -> bool:
        return tfds.prepared(self.config) is not None

    def how_to_get(self) -> str:
        return tfds.how_to_get(self.config)

    def load(self, split: str, limit: int | None) -> Dataset:
        require_test(split, self.name)
        return tfds.load(self.config, self.split, limit, self.classes)


@register("dataset", "cifar10_corrupted", paper="hendrycks2019", clean="cifar10")
@record
class CIFAR10Corrupted(PreparedByTFDS):
    """CIFAR-10-C through TFDS, in TFDS's own order: 10,000 images, 32x32x3, of one corruption at one severity."""

    renamed = RENAMED
    classes = tfds.CIFAR10_CLASSES
    split = "test"
    corruption: str
    severity: int


@register("dataset", "imagenet2012_corrupted", paper="hendrycks2019", clean="imagenet2012")
@record
class ImageNetCorrupted(PreparedByTFDS):
    """ImageNet-C through TFDS: 50,000 validation images, 224x224x3, of one corruption at one severity."""

    split = "validation"
    corruption: str
    severity: int

    def how_to_get(self) -> str:
        place = f"{tfds.directory()}/downloads/manual"
        return tfds.how_to_get(self.config, f"put ILSVRC2012_img_val.tar from image-net.org into {place}, then ")


class PublishedFolder(Corrupted):
    """A folder of .npy files: the corruption's, and labels.npy."""

    path: str
    archive: str
    classes: tuple[str, ...]

    def available(self) -> bool:
        return all(file.is_file() for file in self._files())

    def how_to_get(self) -> str:
        missing = next((file for file in self._files() if not file.is_file()), self.path)
        return f"there is no file '{missing}'; unpack {self.archive}.tar from {ARCHIVES[self.archive]}"

    def load(self, split: str, limit: int | None) -> Dataset:
        require_test(split, self.name)
        x, y = (_array(file) for file in self._files())
        if len(x) % SEVERITIES or len(y) not in (len(x), len(x) // SEVERITIES):
            raise UserError(
                f"{self.path}: {len(x)} images and {len(y)} labels are not {SEVERITIES} severities of one set"
            )
        count = len(x) // SEVERITIES
        checks.enough(count, limit, self.name)
        first = (self.severity - 1) * count
        rows = slice(first, first + (limit or count))
        labels = y[rows] if len(y) == len(x) else y[: limit or count]
        return checks.dataset(np.array(x[rows]), np.array(labels), self.classes, self.name)

    def _files(self) -> tuple[Path, Path]:
        return Path(self.path, f"{self.corruption}.npy"), Path(self.path, "labels.npy")


@register("dataset", "cifar10_c", paper="hendrycks2019", clean="cifar10")
@record
class CIFAR10C(PublishedFolder):
    """CIFAR-10-C as published, in CIFAR-10's order. path: the folder CIFAR-10-C."""

    archive = "CIFAR-10-C"
    classes = tfds.CIFAR10_CLASSES
    path: str
    corruption: str
    severity: int


@register("dataset", "cifar100_c", paper="hendrycks2019", clean="cifar100")
@record
class CIFAR100C(PublishedFolder):
    """CIFAR-100-C as published, in CIFAR-100's order. path: the folder CIFAR-100-C."""

    archive = "CIFAR-100-C"
    classes = tuple(map(str, range(100)))
    path: str
    corruption: str
    severity: int


def require_test(split: str, name: str) -> None:
    """UserError for the training split, which no corrupted test set has."""
    if split != "test":
        raise UserError(f"{name} has no split '{split}'; there is: test")


def _array(file: Path) -> np.ndarray:
    """The array of a .npy file, mapped and not read. UserError where it is none, or pickled."""
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{file} is no .npy file, or cut short: {error}") from None
