"""image_folder("dir"): anybody's images, one folder a class.

dir/CLASS/*.png|jpg, or dir/train/CLASS/... and dir/test/CLASS/...; classes and files in alphabetical order, one of each class in turn.
"""

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from robustbench_jax.data import checks
from robustbench_jax.registry import register
from robustbench_jax.types import Dataset, UserError, record, require_positive

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}


@register("dataset", "image_folder")
@record
class ImageFolder:
    """size: the side of the square images; without it, all must have one size already. grey: one channel, not three."""

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
        root = Path(self.path, split) if Path(self.path, split).is_dir() else Path(self.path)
        classes = tuple(sorted(d.name for d in root.iterdir() if d.is_dir()))
        files = [(file, label) for label, name in enumerate(classes) for file in sorted((root / name).iterdir())
                 if file.suffix.lower() in SUFFIXES]
        if not files:
            raise UserError(f"{root} holds no images; {root}/CLASS/*.png or *.jpg is expected")
        chosen = _in_turn(files)[:limit]
        x = [self._read(file) for file, _ in chosen]
        sizes = sorted({image.shape for image in x})
        if len(sizes) > 1:
            raise UserError(f"{root} holds images of {len(sizes)} sizes, {sizes[0]} to {sizes[-1]}; give size=...")
        return checks.dataset(np.stack(x), np.array([label for _, label in chosen]), classes, str(root))

    def _read(self, file: Path) -> np.ndarray:
        try:
            with Image.open(file) as opened:
                image = np.asarray(opened.convert("L" if self.grey else "RGB"))
        except (OSError, UnidentifiedImageError) as error:
            raise UserError(f"{file}: {error}") from None
        image = image[..., None] if self.grey else image
        return image if self.size is None else centre_crop(image, self.size, self.size)


def centre_crop(image: np.ndarray, size: int, resize: int) -> np.ndarray:
    """uint8 [size, size, C]: the shorter side resized to `resize` (bilinear), then the centre cut out."""
    channels = image.shape[-1]
    picture = Image.fromarray(image[..., 0] if channels == 1 else image)
    scale = resize / min(picture.size)
    wide, high = (max(resize, round(side * scale)) for side in picture.size)
    if (wide, high) != picture.size:
        picture = picture.resize((wide, high), Image.Resampling.BILINEAR)
    left, top = (wide - size) // 2, (high - size) // 2
    return np.asarray(picture.crop((left, top, left + size, top + size))).reshape(size, size, channels)


def _in_turn(files: list) -> list:
    """The files, taken from the classes in turn, so that the first few are not all of one class."""
    turns: dict[int, int] = {}
    order = []
    for file, label in files:
        turns[label] = turns.get(label, 0) + 1
        order.append((turns[label], label, file))
    return [(file, label) for _, label, file in sorted(order)]
