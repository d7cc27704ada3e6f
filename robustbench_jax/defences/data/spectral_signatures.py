"""spectral_signatures(remove): images whose features lie far along the direction in which their class varies most.

Reference: Tran, Li & Madry, NeurIPS 2018, arXiv:1811.00636, algorithm 1. Features are centred by class both for the
singular vector and for the scores, as there; published re-implementations score features that are not centred.
"""

import jax
import numpy as np

from robustbench_jax.defences.data.sanitiser import Sanitiser
from robustbench_jax.defences.data.seen import class_by_class, highest_of_each
from robustbench_jax.models.features import features_of
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, record


@register("data_defence", "spectral_signatures", paper="tran2018")
@record
class SpectralSignatures(Sanitiser):
    """remove: share of each class; the paper takes 1.5 times the share of poisons, which a defender does not know."""

    remove: float = 0.075

    def score(self, key: jax.Array, model: Classifier, data: Dataset, trusted: Dataset) -> np.ndarray:
        return class_by_class(features_of(model, data.x), data.y, lambda values, label: outlying(values))

    def removed(self, scores: np.ndarray, data: Dataset) -> np.ndarray:
        return highest_of_each(scores, data.y, self.remove)


def outlying(values: np.ndarray) -> np.ndarray:
    """float [M]: squared projections of centred values [M, F] on their first right singular vector."""
    centred = values - values.mean(0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    return (centred @ axes[:, -1]) ** 2
