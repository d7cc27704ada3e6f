"""label_flip(): some training images get another label, drawn evenly, or that of one pair of classes.

References: random flips as in Biggio et al., ACML 2011 (label noise attacks); pairwise flips as in Han et al., NeurIPS
2018, arXiv:1804.06872 (pair noise).
"""

import dataclasses

import jax
import numpy as np

from robustbench_jax.keys import stream
from robustbench_jax.poisons import PoisonedDataset, PoisoningAttack, Subpopulation, changed, chosen, require_class
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, UserError, record


@record
class OfClass(Subpopulation):
    """The images of one class."""

    label: int

    def members(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.asarray(y) == self.label


@register("attack", "label_flip", threat="poisoning", access="poison_only", paper="biggio2011")
@record
class LabelFlip(PoisoningAttack):
    """source, to: with both, images of the class `source` are labelled `to`, and the accuracy on that class is measured
    by itself; with neither (-1), images of any class get one of the other labels.
    """

    source: int = -1
    to: int = -1
    goal = "availability"
    labels_only = True

    def __post_init__(self):
        if (self.source < 0) != (self.to < 0):
            raise UserError(f"label_flip: source = {self.source} and to = {self.to}: give both or neither")
        if self.source >= 0 and self.source == self.to:
            raise UserError(f"label_flip: source and to are the same class {self.to}")

    def poison(
        self, key: jax.Array, data: Dataset, count: int, references: tuple[Classifier, ...] = ()
    ) -> PoisonedDataset:
        classes = len(data.classes)
        if self.source >= 0:
            for name in ("source", "to"):
                require_class("label_flip", name, getattr(self, name), classes)
        eligible = data.y == self.source if self.source >= 0 else np.ones(len(data), bool)
        rows, flags = chosen(stream(key, "rows"), eligible, count)
        away = np.asarray(jax.random.randint(stream(key, "labels"), (len(data),), 1, classes))[rows]
        y = np.full(len(rows), self.to) if self.source >= 0 else (data.y[rows] + away) % classes
        made = changed(data, rows, y=y, flags=flags)
        return dataclasses.replace(made, subpopulation=OfClass(self.source)) if self.source >= 0 else made
