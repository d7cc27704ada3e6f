"""only(dataset, classes): the examples of some of another dataset's classes.

What is private and what is public may so be parts of one dataset, that have no class in common.
"""

import dataclasses

import numpy as np

from robustbench_jax.registry import register
from robustbench_jax.types import Dataset, UserError, record, static


@register("dataset", "only", parts={"dataset": "dataset"})
@record
class Only:
    """classes: by number, each once, e.g. [1, 4, 6]; they are numbered anew in that order, and keep their names."""

    dataset: object
    classes: tuple = static()

    def __post_init__(self):
        classes = self.classes if isinstance(self.classes, tuple) else ()
        whole = all(type(c) is int and c >= 0 for c in classes)
        if len(classes) < 2 or not whole or len(set(classes)) < len(classes):
            raise UserError(
                f"only: classes = {self.classes} must be a list of two or more classes by number, each once"
            )

    def available(self) -> bool:
        return self.dataset.available()

    def how_to_get(self) -> str:
        return self.dataset.how_to_get()

    def load(self, split: str, limit: int | None) -> Dataset:
        """Raises UserError for a class that is not there."""
        data = self.dataset.load(split, None)
        if max(self.classes) >= len(data.classes):
            raise UserError(
                f"only: classes = {self.classes}: those of {data.name} have numbers 0 to {len(data.classes) - 1}"
            )
        number = np.full(len(data.classes), -1, np.int32)
        number[list(self.classes)] = np.arange(len(self.classes))
        kept = data.rows(number[data.y] >= 0)
        return dataclasses.replace(kept, y=number[kept.y], classes=tuple(data.classes[c] for c in self.classes))
