"""activation_clustering(): in a class that falls into two groups of features, the smaller one.

Reference: Chen et al., SafeAI 2019, arXiv:1811.03728. Each class is clustered once, as a whole, from images as they
are; some published code clusters batch by batch, of shuffled, augmented images, and removes other rows than it accuses.
Departs from the paper: principal components in the place of independent ones. No class need be accused: the smaller
group must be below a share of the class, and the two apart by a silhouette.
Shapes: M images of a class, F features.
"""

import jax
import numpy as np

from robustbench_jax.defences.data.sanitiser import Sanitiser
from robustbench_jax.defences.data.seen import class_by_class
from robustbench_jax.models.features import features_of
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, UserError, record, static

ROUNDS = 50


@register("data_defence", "activation_clustering", paper="chen2019")
@record
class ActivationClustering(Sanitiser):
    """size: the largest share of a class that is accused; silhouette: the least mean one (simplified, to centres);
    components: principal ones that are clustered.
    """

    size: float = 0.35
    silhouette: float = 0.3
    components: int = static(default=10)

    def __post_init__(self):
        if not 0 < self.size <= 0.5:
            raise UserError(f"activation_clustering: size = {self.size} must be above 0 and at most 0.5")
        if self.components < 1:
            raise UserError(f"activation_clustering: components = {self.components} must be at least 1")

    def score(self, key: jax.Array, model: Classifier, data: Dataset, trusted: Dataset) -> np.ndarray:
        """From -1 to 1: how much closer to the smaller group, times the class's silhouette; above 0 in an accused one
        alone, other classes have theirs less 1.
        """

        def of_class(values: np.ndarray, label: int) -> np.ndarray:
            if len(values) < 3:
                return np.full(len(values), -1.0)
            closeness, share = two_means(principal(values, self.components))
            apart = float(np.mean(np.abs(closeness)))
            accused = share <= self.size and apart >= self.silhouette
            return closeness * apart - (0.0 if accused else 1.0)

        return class_by_class(features_of(model, data.x), data.y, of_class)

    def removed(self, scores: np.ndarray, data: Dataset) -> np.ndarray:
        return scores > 0


def principal(values: np.ndarray, components: int) -> np.ndarray:
    """[M, K]: centred values [M, F] in their first principal components."""
    centred = values - values.mean(0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    return centred @ axes[:, -components:]


def two_means(points: np.ndarray) -> tuple[np.ndarray, float]:
    """(closeness [M], share): 2-means begun at the halves of the first component. closeness: from -1 to 1, of the
    distances b to the larger and a to the smaller group's centre (b - a) / max(a, b); share: the smaller group's size.
    """
    along = points[:, -1]
    groups = along > np.median(along)
    for _ in range(ROUNDS):
        if groups.all() or not groups.any():
            return np.full(len(points), -1.0), 0.5
        centres = np.stack([points[~groups].mean(0), points[groups].mean(0)])
        away = np.linalg.norm(points[:, None] - centres, axis=-1)
        closer = away[:, 1] < away[:, 0]
        if np.array_equal(closer, groups):
            break
        groups = closer
    small = int(groups.sum() <= len(groups) / 2)
    near, far = away[:, small], away[:, 1 - small]
    return (far - near) / np.maximum(np.maximum(near, far), 1e-300), float(np.mean(groups == small))
