"""What any file of images must satisfy before it becomes a Dataset.

Shapes: N examples, H height, W width, C channels.
"""

import numpy as np

from robustbench_jax.types import Dataset, UserError

MOST_CLASSES = 100_000


def dataset(x: np.ndarray, y: np.ndarray, classes: tuple[str, ...], source: str) -> Dataset:
    """A Dataset of x [N, H, W, C] or [N, H, W] and y [N]; `classes` are the names of labels 0, 1, ...

    Raises UserError, naming `source`, for anything that is not images in uint8 or float [0, 1] with one whole
    label from 0 up for each.
    """
    x = images(np.asarray(x), source)
    y = labels(np.asarray(y), len(x), len(classes), source)
    return Dataset(x, y, classes, source)


def enough(count: int, limit: int | None, source: str) -> None:
    """UserError, before anything is decoded, where a source of `count` examples cannot fill `limit`."""
    if limit is not None and limit > count:
        raise UserError(f"examples = {limit}: {source} has {count}, so give 1 to {count}")


def images(x: np.ndarray, source: str) -> np.ndarray:
    """uint8 [N, H, W, C]; float images are rounded to the nearest of the 256 levels."""
    x = x[..., None] if x.ndim == 3 else x
    if x.ndim != 4 or not x.size:
        raise UserError(f"{source}: images have shape {list(x.shape)}; [N, H, W, C] of at least 1 is needed")
    if x.shape[-1] not in (1, 3, 4) and x.shape[1] in (1, 3):
        raise UserError(f"{source}: images have shape {list(x.shape)}: channels first, not last")
    if x.dtype == np.uint8:
        return np.ascontiguousarray(x)
    if not np.issubdtype(x.dtype, np.floating):
        raise UserError(f"{source}: images are {x.dtype}; uint8, or floats in [0, 1], are needed")
    low, high = float(x.min()), float(x.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UserError(f"{source}: images hold NaN or infinity")
    if low < 0 or high > 1:
        raise UserError(f"{source}: images lie in [{low:g}, {high:g}]; uint8, or floats in [0, 1], is needed")
    return np.rint(x * 255).astype(np.uint8)


def labels(y: np.ndarray, count: int, classes: int, source: str) -> np.ndarray:
    """int32 [N], each from 0 to below the number of classes."""
    if y.shape != (count,):
        raise UserError(f"{source}: labels have shape {list(y.shape)}; {count} images need [{count}]")
    if not np.issubdtype(y.dtype, np.integer):
        raise UserError(f"{source}: labels are {y.dtype}; whole numbers are needed")
    if y.min() < 0 or y.max() >= classes:
        worst = int(y.min() if y.min() < 0 else y.max())
        raise UserError(f"{source}: label {worst} is out of range; 0 to {classes - 1} are classes")
    return y.astype(np.int32)


def numbered(labels: list[np.ndarray], source: str) -> tuple[str, ...]:
    """The names "0", "1", ... up to the largest of the labels of all splits."""
    for y in labels:
        if y.ndim != 1 or not y.size:
            raise UserError(
                f"{source}: labels have shape {list(y.shape)}; a number for each of at least one image is needed"
            )
        if not np.issubdtype(y.dtype, np.integer):
            raise UserError(f"{source}: labels are {y.dtype}; whole numbers are needed")
    largest = max(int(y.max()) for y in labels)
    if largest >= MOST_CLASSES:
        raise UserError(f"{source}: label {largest} is out of range; it must be below {MOST_CLASSES:,}")
    return tuple(map(str, range(largest + 1)))
