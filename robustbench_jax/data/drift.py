"""Drift: are these data from where a trusted sample is from? Two tests, one of the images and one of the labels.

Images: maximum mean discrepancy with a Gaussian kernel whose width is the median distance, Gretton et al., JMLR 2012,
and a permutation test, exact for exchangeable images. Labels: chi-squared test of the two tables of counts.
Shapes: N images of each side. Host code in float64.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2_contingency

from robustbench_jax.types import Dataset, UserError

IMAGES = 500  # of each side that are compared
PERMUTATIONS = 999


@dataclass(frozen=True)
class Drift:
    """mmd: the squared discrepancy of the images; images, labels: p-values; compared: how many images of each side."""

    mmd: float
    images: float
    labels: float
    compared: int

    def found(self, alpha: float = 0.01) -> bool:
        """Whether either test rejects, at alpha for both together (Bonferroni)."""
        return min(self.images, self.labels) < alpha / 2


def drift(data: Dataset, trusted: Dataset, seed: int = 0) -> Drift:
    """Of `data` against a trusted sample. UserError where shapes or classes differ, or for fewer than 2 images."""
    if data.x.shape[1:] != trusted.x.shape[1:]:
        raise UserError(f"drift: images {list(data.x.shape[1:])} against {list(trusted.x.shape[1:])}")
    if len(data.classes) != len(trusted.classes):
        raise UserError(f"drift: {len(data.classes)} classes against {len(trusted.classes)}")
    count = min(len(data), len(trusted), IMAGES)
    if count < 2:
        raise UserError(f"drift: {count} images; at least 2 of each side are needed")
    rng = np.random.default_rng(seed)
    sides = [each.x[rng.permutation(len(each))[:count]].reshape(count, -1) / 255.0 for each in (data, trusted)]
    mmd, p_value = discrepancy(np.concatenate(sides), count, rng)
    tables = np.stack([np.bincount(each.y, minlength=len(data.classes)) for each in (data, trusted)])
    tables = tables[:, tables.any(0)]
    labels = float(chi2_contingency(tables).pvalue) if tables.shape[1] > 1 else 1.0
    return Drift(mmd, p_value, labels, count)


def discrepancy(points: np.ndarray, count: int, rng: np.random.Generator) -> tuple[float, float]:
    """(squared MMD, p-value) of the first `count` of points [2 count, D] against the others."""
    squares = np.sum(points**2, -1)
    away = np.maximum(squares[:, None] + squares - 2 * points @ points.T, 0)
    width = np.median(away[np.triu_indices(len(points), 1)])
    kernel = np.exp(-away / max(width, 1e-12))
    signs = np.where(np.arange(len(points)) < count, 1.0, -1.0) / count
    every = np.stack([signs, *(rng.permutation(signs) for _ in range(PERMUTATIONS))])
    found = np.einsum("pi,pi->p", every @ kernel, every)
    return float(found[0]), float(np.mean(found >= found[0] - 1e-12))
