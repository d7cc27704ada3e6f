"""confident_learning(folds): labels that another class is surer of, by probabilities that have not seen the label.

Reference: Northcutt, Jiang & Chuang, JAIR 2021, arXiv:1911.00068: an image of label y counts as one of class j where
its probability of j reaches the mean of those that are labelled j, and j is the likeliest such class; it is removed.
Departs from the paper: out-of-sample probabilities come from linear heads on the model's features, one a fold, by ridge
regression and a softmax of its scores, not from networks trained anew for each fold.
Shapes: N images, F features, C classes.
"""

import jax
import numpy as np

from robustbench_jax.defences.data.sanitiser import Sanitiser
from robustbench_jax.keys import stream
from robustbench_jax.models.features import features_of
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, UserError, record

SHARPNESS = 10.0  # of the softmax over ridge scores, which lie between 0 and 1


@register("data_defence", "confident_learning", paper="northcutt2021")
@record
class ConfidentLearning(Sanitiser):
    """folds: of the cross-validation; ridge: penalty, as a share of the mean squared feature."""

    folds: int = 5
    ridge: float = 0.01

    def __post_init__(self):
        if self.folds < 2:
            raise UserError(f"confident_learning: folds = {self.folds} must be at least 2")
        if not self.ridge > 0:
            raise UserError(f"confident_learning: ridge = {self.ridge} must be greater than 0")

    def score(self, key: jax.Array, model: Classifier, data: Dataset, trusted: Dataset) -> np.ndarray:
        """How far the best other class is above its threshold, less how far the label is above its own."""
        classes = len(data.classes)
        fold = np.asarray(jax.random.permutation(stream(key, "folds"), len(data))) % self.folds
        chances = out_of_sample(features_of(model, data.x), data.y, classes, fold, self.ridge)
        own = chances[np.arange(len(data)), data.y]
        there = np.bincount(data.y, minlength=classes)
        usual = np.where(there, np.bincount(data.y, own, classes) / np.maximum(there, 1), np.inf)
        above = chances - usual
        mine = above[np.arange(len(data)), data.y]
        above[np.arange(len(data)), data.y] = -np.inf
        return np.nan_to_num(above.max(-1) - mine, neginf=-2.0)

    def removed(self, scores: np.ndarray, data: Dataset) -> np.ndarray:
        return scores > 0


def out_of_sample(values: np.ndarray, y: np.ndarray, classes: int, fold: np.ndarray, ridge: float) -> np.ndarray:
    """Probabilities [N, C] of each image by a head fitted on the other folds."""
    inputs = np.concatenate([values, np.ones((len(values), 1))], 1)
    wanted, out = np.eye(classes)[y], np.zeros((len(y), classes))
    for number in range(fold.max() + 1):
        seen = fold != number
        gram = inputs[seen].T @ inputs[seen]
        penalty = ridge * np.trace(gram) / len(gram) * np.eye(len(gram))
        weights = np.linalg.solve(gram + penalty, inputs[seen].T @ wanted[seen])
        out[~seen] = inputs[~seen] @ weights
    sharp = np.exp(SHARPNESS * (out - out.max(-1, keepdims=True)))
    return sharp / sharp.sum(-1, keepdims=True)
