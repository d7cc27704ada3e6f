"""kernel_density(bandwidth): no answer where training images of the predicted class are rare around the features.

Reference: Feinman et al., 2017, arXiv:1703.00410. The score is minus the log of a Gaussian kernel density estimate, but
for the kernel's own constant, which is the same for all images. Broken by Carlini & Wagner, AISec 2017,
arXiv:1705.07263.
Departs from the paper: without its second score, the Bayesian uncertainty, for which a network needs dropout.
Shapes: D input shape, F features, N training images. Written for one example.
The density is a log-sum-exp of finite exponents: it never is the log of 0, however far the features are.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial.distance import pdist, squareform
from scipy.special import logsumexp

from robustbench_jax.defences.serving.detector import Detector, Score, by_class
from robustbench_jax.models.features import each, features
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, record, require_positive

GRID = 2.0 ** np.arange(-6, 2.5, 0.5)  # bandwidths that are tried, in units of the usual distance within a class


@record
class Rarity(Score):
    """Training images: values [N, F], labels y [N], counts [C] by class. bandwidth: of the kernel."""

    values: jax.Array
    y: jax.Array
    counts: jax.Array
    bandwidth: Any

    def __call__(self, model: Classifier, x: jax.Array) -> jax.Array:
        predicted = jnp.argmax(model(x))
        squares = jnp.sum((features(model, x) - self.values) ** 2, axis=-1)
        exponents = jnp.where(self.y == predicted, -squares / (2 * self.bandwidth**2), -jnp.inf)
        return jnp.log(self.counts[predicted]) - jax.nn.logsumexp(exponents)


@register("model_defence", "kernel_density", paper="feinman2017")
@record
class KernelDensity(Detector):
    """bandwidth: in units of the features; None for the one, of a grid, under which each training image is likeliest
    given the others of its class. fpr, images: see Detector.
    """

    bandwidth: float | None = None
    fpr: float = 0.05
    images: int = 5000

    def __post_init__(self):
        super().__post_init__()
        require_positive("kernel_density", bandwidth=self.bandwidth)

    def fit(self, key: jax.Array, classifier: Classifier, data: Dataset) -> Rarity:
        counts = by_class("kernel_density", data, 2)
        values = each(features, classifier, data.x)
        width = likeliest(values, data.y) if self.bandwidth is None else self.bandwidth
        return Rarity(values, data.y, counts.astype(np.float32), np.float32(width))


def likeliest(values: np.ndarray, y: np.ndarray) -> float:
    """The bandwidth with the largest leave-one-out likelihood of values [N, F] within their classes y [N]; 1 where they
    are all the same. Features that do not vary are left out.
    """
    values = np.asarray(values, np.float64)
    values = values[:, np.ptp(values, axis=0) > 0]
    squares = [squareform(pdist(values[y == label], "sqeuclidean")) for label in np.unique(y)] if values.size else []
    pairs = np.concatenate([s[np.triu_indices_from(s, 1)] for s in squares]) if squares else np.zeros(1)
    usual = float(np.sqrt(np.median(pairs)))
    if not usual:
        return 1.0
    return max(usual * GRID, key=lambda width: sum(_likelihood(s, width, values.shape[1]) for s in squares))


def _likelihood(squares: np.ndarray, width: float, features: int) -> float:
    """The summed log density of each point under the others, from squared distances [N, N]; up to a constant."""
    exponents = -squares / (2 * width**2)
    np.fill_diagonal(exponents, -np.inf)
    return float(np.sum(logsumexp(exponents, axis=1)) - len(squares) * features * np.log(width))
