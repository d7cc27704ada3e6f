"""spectre(remove): outliers of a class after its clean part has been made round.

Reference: Hayase et al., ICML 2021, arXiv:2104.11315. Features of a class, in their first `rank` principal components,
are whitened with a mean and a covariance that poisons do not move much; then each image is scored by quantum entropy
(QUE): its squared size in the metric exp(alpha * (S - I) / (|S| - 1)), S the covariance of the whitened features.
Departs from the paper: mean and covariance come from repeated trimming of the farthest images (concentration steps
of the minimum covariance determinant; Rousseeuw & Van Driessen, 1999), not from its robust estimator; rank is fixed.
Shapes: M images of a class, F features.
"""

import jax
import numpy as np
from scipy.linalg import expm

from robustbench_jax.defences.data.sanitiser import Sanitiser
from robustbench_jax.defences.data.seen import class_by_class, highest_of_each
from robustbench_jax.models.features import features_of
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, UserError, record

STEPS = 20  # of concentration


@register("data_defence", "spectre", paper="hayase2021")
@record
class Spectre(Sanitiser):
    """remove: share of each class; trim: share of a class that mean and covariance do without; rank: of the principal
    components; alpha: of the entropy.
    """

    remove: float = 0.075
    trim: float = 0.25
    rank: int = 20
    alpha: float = 4.0

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.trim < 0.5:
            raise UserError(f"spectre: trim = {self.trim} must be at least 0 and below 0.5")
        if self.rank < 1:
            raise UserError(f"spectre: rank = {self.rank} must be at least 1")

    def score(self, key: jax.Array, model: Classifier, data: Dataset, trusted: Dataset) -> np.ndarray:
        def of_class(values: np.ndarray, label: int) -> np.ndarray:
            return entropy_scores(whitened(values, self.rank, self.trim), self.alpha)

        return class_by_class(features_of(model, data.x), data.y, of_class)

    def removed(self, scores: np.ndarray, data: Dataset) -> np.ndarray:
        return highest_of_each(scores, data.y, self.remove)


def whitened(values: np.ndarray, rank: int, trim: float) -> np.ndarray:
    """[M, K]: values [M, F] in their principal components, of mean 0 and covariance 1 but for the farthest `trim`."""
    centred = values - values.mean(0)
    spread, axes = np.linalg.eigh(centred.T @ centred / len(values))
    kept = (spread > 1e-9 * max(spread[-1], 1e-30)).nonzero()[0][-rank:]
    points = centred @ axes[:, kept]
    inside = np.ones(len(points), bool)
    for _ in range(STEPS):
        white = (points - points[inside].mean(0)) @ _root(np.cov(points[inside].T, ddof=0).reshape(len(kept), -1))
        far = np.sum(white**2, -1)
        closest = far <= np.quantile(far, 1 - trim)
        if np.array_equal(closest, inside):
            break
        inside = closest
    return white


def _root(covariance: np.ndarray) -> np.ndarray:
    """The inverse square root, directions without spread left out."""
    spread, axes = np.linalg.eigh(covariance)
    scale = np.where(spread > 1e-12 * max(spread[-1], 1e-30), 1 / np.sqrt(np.maximum(spread, 1e-300)), 0.0)
    return axes * scale @ axes.T


def entropy_scores(points: np.ndarray, alpha: float) -> np.ndarray:
    """QUE scores [M] of whitened points [M, K]."""
    covariance = np.cov(points.T, ddof=0).reshape(points.shape[1], -1)
    excess = np.linalg.norm(covariance, 2) - 1
    metric = (
        np.eye(len(covariance)) if excess <= 1e-9 else expm(alpha * (covariance - np.eye(len(covariance))) / excess)
    )
    return np.einsum("mi,ij,mj->m", points, metric, points) / np.trace(metric)
