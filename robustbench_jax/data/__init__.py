"""Datasets: real images on the host, by call string.

A registered dataset has `load(split, limit) -> Dataset` and `available() -> bool`; loading tries no network.
"""

import dataclasses

from robustbench_jax.registry import build, discover, parse, short
from robustbench_jax.types import Dataset, UserError

SPLITS = ("train", "test")


def load_dataset(text: str, split: str = "test", limit: int | None = None) -> Dataset:
    """The first `limit` examples (None: all) of a split of the dataset that a call string names.

    Raises UserError for an unknown name, a split other than train and test, a limit that the split cannot
    fill, files that are not there (with the way to get them) and files that do not hold images and labels.
    """
    if split not in SPLITS:
        raise UserError(f"no split '{split}'; there are: {', '.join(SPLITS)}")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise UserError(f"examples = {limit!r} must be a whole number of at least 1")
    source = build("dataset", text)
    if not source.available():
        name, here = parse(text).name, ", ".join(name for name in discover("dataset") if _is_here(name))
        raise UserError(f"dataset '{name}' is not here: {source.how_to_get()} (datasets here: {here})")
    data = source.load(split, limit)
    return dataclasses.replace(data, name=short("dataset", text)).take(limit)


def _is_here(name: str) -> bool:
    """False for those that need an argument, such as a path."""
    try:
        return build("dataset", name).available()
    except UserError:
        return False
