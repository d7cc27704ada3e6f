"""npz("file.npz"): anybody's images in one NumPy file.

Keys x and y, or x_train, y_train, x_test, y_test; images uint8 or float in [0, 1], [N, H, W, C] or [N, H, W]; labels
[N] from 0 up; optionally `classes`, their names.
"""

import zipfile
from pathlib import Path

import numpy as np

from robustbench_jax.data import checks
from robustbench_jax.registry import register
from robustbench_jax.types import Dataset, UserError, record


@register("dataset", "npz")
@record
class Npz:
    """A file without x_test, y_test serves its x, y as either split."""

    path: str

    def available(self) -> bool:
        return Path(self.path).is_file()

    def how_to_get(self) -> str:
        return f"there is no file '{self.path}'; write one with numpy.savez(file, x=images, y=labels)"

    def load(self, split: str, limit: int | None) -> Dataset:
        arrays = self._arrays()
        keys = ("x", "y") if "x" in arrays else (f"x_{split}", f"y_{split}")
        missing = [key for key in keys if key not in arrays]
        if missing:
            raise UserError(f"{self.path} holds {', '.join(arrays) or 'nothing'}; {' and '.join(missing)} is missing")
        labels = [arrays[key] for key in arrays if key in ("y", "y_train", "y_test")]
        classes = arrays.get("classes")
        names = tuple(map(str, classes if classes is not None else range(_classes(labels, self.path))))
        return checks.dataset(arrays[keys[0]], arrays[keys[1]], names, self.path)

    def _arrays(self) -> dict[str, np.ndarray]:
        try:
            with np.load(self.path, allow_pickle=False) as file:
                return {key: file[key] for key in file.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{self.path} is no npz file, or cut short: {error}") from None


def _classes(labels: list[np.ndarray], source: str) -> int:
    """The number of classes, over all splits of the file."""
    if not all(y.size and np.issubdtype(y.dtype, np.integer) for y in labels):
        raise UserError(f"{source}: labels must be whole numbers, at least one")
    return max(int(y.max()) for y in labels) + 1
