"""coarse(dataset, groups): another dataset with labels that are groups of its classes; the class itself is private.

The setting of overlearning (Song & Shmatikov, ICLR 2020, arXiv:1905.11742): a model for the group that learns more.
"""

import dataclasses

import numpy as np

from robustbench_jax.registry import register
from robustbench_jax.types import Attribute, Dataset, UserError, record


@register("dataset", "coarse", paper="song2020", parts={"dataset": "dataset"})
@record
class Coarse:
    """groups: lists of classes by number, each class in one of them, e.g. [[0, 2, 4, 6], [1, 3], [5, 7, 9], [8]]."""

    dataset: object
    groups: tuple

    def __post_init__(self):
        groups = self.groups if isinstance(self.groups, tuple) else ()
        whole = all(isinstance(group, tuple) and all(type(c) is int for c in group) for group in groups)
        if len(groups) < 2 or not whole or not all(groups):
            raise UserError(f"coarse: groups = {self.groups} must be two or more lists of classes by number")

    def available(self) -> bool:
        return self.dataset.available()

    def how_to_get(self) -> str:
        return self.dataset.how_to_get()

    def load(self, split: str, limit: int | None) -> Dataset:
        """Raises UserError where groups and classes do not agree."""
        data = self.dataset.load(split, limit)
        members = sorted(c for group in self.groups for c in group)
        if members != list(range(len(data.classes))):
            raise UserError(
                f"coarse: groups = {self.groups} must hold each class from 0 to {len(data.classes) - 1} once"
            )
        of_class = np.zeros(len(data.classes), np.int32)
        for number, group in enumerate(self.groups):
            of_class[list(group)] = number
        names = tuple(" or ".join(data.classes[c] for c in group) for group in self.groups)
        private = Attribute("class", data.y, data.classes)
        return dataclasses.replace(data, y=of_class[data.y], classes=names, attribute=private)
