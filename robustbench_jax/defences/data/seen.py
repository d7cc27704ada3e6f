"""What sanitisers look at: features of training images by a model, and what is done with them class by class.

Shapes: N images, F features, C classes. Host code in float64.
"""

from collections.abc import Callable

import numpy as np

from robustbench_jax.models.features import logits_of
from robustbench_jax.types import Classifier, Dataset


def losses_of(model: Classifier, data: Dataset) -> np.ndarray:
    """float64 [N]: the cross-entropy at the label."""
    logits = logits_of(model, data.x)
    top = logits.max(-1, keepdims=True)
    total = top[:, 0] + np.log(np.exp(logits - top).sum(-1))
    return total - logits[np.arange(len(data)), data.y]


def class_by_class(values: np.ndarray, y: np.ndarray, score: Callable[[np.ndarray, int], np.ndarray]) -> np.ndarray:
    """float [N]: score(values [M, F] of one class, its label) for every class, put back in the rows' order."""
    out = np.zeros(len(y))
    for label in np.unique(y):
        rows = np.flatnonzero(y == label)
        out[rows] = score(values[rows], int(label))
    return out


def highest_of_each(scores: np.ndarray, y: np.ndarray, share: float) -> np.ndarray:
    """bool [N]: the share of each class with the highest scores; of equal ones those of lower rows stay."""
    out = np.zeros(len(scores), bool)
    for label in np.unique(y):
        rows = np.flatnonzero(y == label)
        count = round(share * len(rows))
        out[rows[np.argsort(scores[rows], kind="stable")[len(rows) - count :]]] = True
    return out
