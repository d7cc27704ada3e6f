"""image_folder("dir"): anybody's images, one folder a class.

dir/CLASS/*.png or *.jpg, or dir/train/CLASS/... and dir/test/CLASS/...; classes and files in alphabetical
order, one file of each class in turn, so that the first few images are not all of one class.
"""

from pathlib import Path

import numpy as np

from robustbench_jax.data import checks
from robustbench_jax.data.pictures import centre_crop, decode
from robustbench_jax.registry import register
from robustbench_jax.types import Dataset, UserError, record, require_positive

SPLITS = ("train", "test")
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}


@register("dataset", "image_folder")
@record
class ImageFolder:
    """size: the side that all images are resized and centre-cropped to; without it, they must have one size.

    grey: one channel, not three. A folder without train/ and test/ serves all its images as either split.
    """

    path: str
    size: int | None = None
    grey: bool = False

    def __post_init__(self):
        require_positive("image_folder", size=self.size)

    def available(self) -> bool:
        return Path(self.path).is_dir()

    def how_to_get(self) -> str:
        return f"there is no folder '{self.path}'; one folder of images a class is needed in it"

    def load(self, split: str, limit: int | None) -> Dataset:
        root, classes = self._layout(split)
        files = [(file, label) for label, name in enumerate(classes) for file in _pictures(root / name)]
        if not files:
            raise UserError(f"{root} holds no images; {root}/CLASS/*.png or *.jpg is expected")
        checks.enough(len(files), limit, str(root))
        chosen = _in_turn(files)[:limit]
        images = [self._image(file) for file, _ in chosen]
        _require_one_size(images, chosen)
        return checks.dataset(np.stack(images), np.array([label for _, label in chosen]), classes, str(root))

    def _layout(self, split: str) -> tuple[Path, tuple[str, ...]]:
        """The folder of the split, and the classes of all splits, so that labels mean the same."""
        root = Path(self.path)
        splits = [root / name for name in SPLITS if (root / name).is_dir()]
        if splits and root / split not in splits:
            raise UserError(f"{root} holds {splits[0].name}/ but no {split}/")
        folders = [folder for where in splits or [root] for folder in where.iterdir() if folder.is_dir()]
        classes = sorted({folder.name for folder in folders if not folder.name.startswith(".")})
        return root / split if splits else root, tuple(classes)

    def _image(self, file: Path) -> np.ndarray:
        image = decode(file, str(file), grey=self.grey)
        return image if self.size is None else centre_crop(image, self.size, self.size)


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    visible = (file for file in folder.iterdir() if not file.name.startswith("."))
    return sorted(file for file in visible if file.suffix.lower() in SUFFIXES)


def _in_turn(files: list[tuple[Path, int]]) -> list[tuple[Path, int]]:
    """The files, taken from the classes in turn."""
    turns: dict[int, int] = {}
    order = []
    for file, label in files:
        turns[label] = turns.get(label, 0) + 1
        order.append((turns[label], label, file))
    return [(file, label) for _, label, file in sorted(order)]


def _require_one_size(images: list[np.ndarray], files: list[tuple[Path, int]]) -> None:
    for image, (file, _) in zip(images, files, strict=True):
        if image.shape != images[0].shape:
            sizes = " and ".join(f"{high}x{wide}" for high, wide, _ in (images[0].shape, image.shape))
            raise UserError(f"{file}: the images have several sizes, {sizes}; give size=...")
