"""npz("file.npz"): anybody's images in one NumPy file.

Keys x and y, or x_train, y_train, x_test, y_test; images uint8 or float in [0, 1], [N, H, W, C] or [N, H, W];
labels [N] from 0 up; optionally `classes`, their names.
"""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from robustbench_jax.data import checks
from robustbench_jax.registry import register
from robustbench_jax.types import Dataset, UserError, record

UNREADABLE = (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)


@register("dataset", "npz")
@record
class Npz:
    """x and y alone are served as either split. Without `classes` they are 0 to the largest label."""

    path: str

    def available(self) -> bool:
        return Path(self.path).is_file()

    def how_to_get(self) -> str:
        return f"there is no file '{self.path}'; write one with numpy.savez(file, x=images, y=labels)"

    def load(self, split: str, limit: int | None) -> Dataset:
        arrays = _read(self.path, (f"x_{split}", f"y_{split}"))
        x = arrays.get(f"x_{split}", arrays.get("x"))
        y = arrays.get(f"y_{split}", arrays.get("y"))
        return checks.dataset(x, y, _classes(arrays, self.path), self.path)


def _read(path: str, split_keys: tuple[str, str]) -> dict[str, np.ndarray]:
    """The split's images, and all labels and class names of the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            there = [name.removesuffix(".npy") for name in archive.namelist()]
        keys = split_keys if split_keys[0] in there else ("x", "y")
        missing = [key for key in keys if key not in there]
        with np.load(path, allow_pickle=False) as file:
            wanted = {*keys, "y_train", "y_test", "classes"} - set(missing)
            arrays = {} if missing else {key: file[key] for key in there if key in wanted}
    except UNREADABLE as error:
        raise UserError(f"{path} is no npz file, or cut short: {error}") from None
    if missing:
        other = "" if keys == split_keys else f", or {' and '.join(split_keys)},"
        found = ", ".join(there) or "nothing"
        raise UserError(f"{path} holds {found}; {' and '.join(missing)}{other} must be there")
    return arrays


def _classes(arrays: dict[str, np.ndarray], source: str) -> tuple[str, ...]:
    """The names of the classes, over all splits of the file."""
    if "classes" in arrays:
        shape = list(arrays["classes"].shape)
        if len(shape) != 1:
            raise UserError(f"{source}: classes have shape {shape}; a list of names is needed")
        return tuple(map(str, arrays["classes"]))
    return checks.numbered([y for key, y in arrays.items() if key.startswith("y")], source)
