"""deep_knn(k): images whose nearest neighbours, in features, have other labels.

Reference: Peri et al., ECCV workshops 2020, arXiv:1909.13374 (Deep k-NN Defense against clean-label poisoning).
Shapes: N images, F features.
"""

import jax
import numpy as np

from robustbench_jax.defences.data.sanitiser import Sanitiser
from robustbench_jax.models.features import features_of
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, UserError, record

SLICE = 1024


@register("data_defence", "deep_knn", paper="peri2020")
@record
class DeepKNN(Sanitiser):
    """k: neighbours; the score is the share of them with another label. Images of which most neighbours have another
    one are removed, as the paper's plurality.
    """

    k: int = 50

    def __post_init__(self):
        if self.k < 1:
            raise UserError(f"deep_knn: k = {self.k} must be at least 1")

    def score(self, key: jax.Array, model: Classifier, data: Dataset, trusted: Dataset) -> np.ndarray:
        if self.k >= len(data):
            raise UserError(f"deep_knn: k = {self.k}: there are {len(data)} images")
        values = features_of(model, data.x)
        near = neighbours(values, self.k)
        return np.mean(data.y[near] != data.y[:, None], axis=1)

    def removed(self, scores: np.ndarray, data: Dataset) -> np.ndarray:
        return scores > 0.5


def neighbours(values: np.ndarray, k: int) -> np.ndarray:
    """int [N, k]: the rows nearest to each of values [N, F], itself left out, in no order."""
    values = values.astype(np.float32)
    sizes, found = np.sum(values**2, -1), []
    for at in range(0, len(values), SLICE):
        part = values[at : at + SLICE]
        away = sizes - 2 * part @ values.T
        away[np.arange(len(part)), at + np.arange(len(part))] = np.inf
        found.append(np.argpartition(away, k, axis=1)[:, :k])
    return np.concatenate(found)
