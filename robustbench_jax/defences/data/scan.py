"""scan(): a class of which two groups explain the features far better than one does, judged beside the other classes.

Reference: Tang et al., USENIX Security 2021, arXiv:1908.00686 (SCAn). Features are a class's mean and a variation whose
covariance all classes share, estimated on trusted images. A class is modelled by one mean and by two; J, twice the
logarithm of the likelihood ratio, is compared with the median of all classes in units of their median absolute
deviation, and a class above exp(2) is accused.
Departs from the paper: features are taken in their principal components; in coordinates in which the variation is round
the likeliest two groups are those of 2-means, which takes the place of its iteration.
Shapes: M images of a class, F features, K components.
"""

import jax
import numpy as np

from robustbench_jax.defences.data.activation_clustering import two_means
from robustbench_jax.defences.data.sanitiser import Sanitiser
from robustbench_jax.models.features import features_of
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, UserError, record, static

LIMIT = float(np.exp(2))
NORMAL = 1.4826  # standard deviations of a normal distribution in its median absolute deviation
FEW = 3  # images of a class, below which there are no two groups


@register("data_defence", "scan", paper="tang2021")
@record
class SCAn(Sanitiser):
    """components: principal ones of the features of the trusted images."""

    components: int = static(default=20)

    def __post_init__(self):
        if self.components < 1:
            raise UserError(f"scan: components = {self.components} must be at least 1")

    def score(self, key: jax.Array, model: Classifier, data: Dataset, trusted: Dataset) -> np.ndarray:
        """Above 0 in the smaller group of an accused class alone: how much closer to that group's centre, up to 1; less
        1 in all other classes.
        """
        white = whitening(features_of(model, trusted.x), trusted.y, self.components)
        points, labels = white(features_of(model, data.x)), np.unique(data.y)
        split = {label: two_means(points[data.y == label]) for label in labels if np.sum(data.y == label) >= FEW}
        gains = {label: gain(points[data.y == label], closeness) for label, (closeness, _) in split.items()}
        middle = np.median(list(gains.values())) if gains else 0.0
        spread = NORMAL * np.median(np.abs(np.array(list(gains.values())) - middle)) if gains else 0.0
        out = np.full(len(data), -1.0)
        for label, (closeness, _) in split.items():
            accused = gains[label] - middle > LIMIT * max(spread, 1e-12)
            out[data.y == label] = closeness - (0.0 if accused else 1.0)
        return out

    def removed(self, scores: np.ndarray, data: Dataset) -> np.ndarray:
        return scores > 0


def whitening(values: np.ndarray, y: np.ndarray, components: int):
    """The map of features [M, F] to [M, K] that makes the variation within classes round, fitted on values [N, F]."""
    centre = values.mean(0)
    _, axes = np.linalg.eigh(np.cov((values - centre).T, ddof=0).reshape(values.shape[1], -1))
    axes = axes[:, -components:]
    within = (values - centre) @ axes
    for label in np.unique(y):
        within[y == label] -= within[y == label].mean(0)
    spread, turn = np.linalg.eigh(within.T @ within / max(len(values) - len(np.unique(y)), 1))
    scale = 1 / np.sqrt(np.maximum(spread, 1e-6 * max(spread[-1], 1e-30)))
    return lambda features: (features - centre) @ axes @ (turn * scale)


def gain(points: np.ndarray, closeness: np.ndarray) -> float:
    """J of points [M, K] of one class: by how much two means lower the sum of squared distances to them."""
    small = closeness > 0
    if not small.any() or small.all():
        return 0.0
    one = np.sum((points - points.mean(0)) ** 2)
    return float(one - sum(np.sum((points[own] - points[own].mean(0)) ** 2) for own in (small, ~small)))
