"""mahalanobis(): no answer where the features are far from those of every class.

Reference: Lee et al., NeurIPS 2018, arXiv:1807.03888: Gaussians of the features with a mean for each class and one
covariance for all. The score is the squared Mahalanobis distance to the nearest mean.
Departs from the paper: of the features of the last layer alone, since its weights over layers are learnt from the
attacks that it is to detect. Directions in which no training image varies are ignored, as by a pseudo-inverse.
Shapes: D input shape, C classes, F features, N images. Written for one example.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.defences.serving.detector import Detector, Score, by_class
from robustbench_jax.models.features import each, features
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, UserError, record


@record
class Distance(Score):
    """means [C, F]; whitening [F, F]: the pseudo-inverse of the covariance is its product with its transpose.

    prepared: the image first takes a step of `magnitude` a pixel towards a smaller distance; the step's own derivative
    is zero.
    """

    means: jax.Array
    whitening: jax.Array
    magnitude: Any
    prepared: bool = False

    def __call__(self, model: Classifier, x: jax.Array) -> jax.Array:
        if self.prepared:
            slope = jax.grad(lambda x: self._nearest(model, x))(jax.lax.stop_gradient(x))
            x = x - self.magnitude * jax.lax.stop_gradient(jnp.sign(slope))
        return self._nearest(model, x)

    def _nearest(self, model: Classifier, x: jax.Array) -> jax.Array:
        away = jnp.dot(features(model, x) - self.means, self.whitening, precision=jax.lax.Precision.HIGHEST)
        return jnp.min(jnp.sum(away**2, axis=-1))


@register("model_defence", "mahalanobis", paper="lee2018")
@record
class Mahalanobis(Detector):
    """magnitude: of the paper's input preprocessing, in pixels from 0 to 1; 0 for none. fpr, images: see Detector."""

    magnitude: float = 0.0
    fpr: float = 0.05
    images: int = 5000

    def __post_init__(self):
        super().__post_init__()
        if not self.magnitude >= 0:
            raise UserError(f"mahalanobis: magnitude = {self.magnitude} must be at least 0")

    def fit(self, key: jax.Array, classifier: Classifier, data: Dataset) -> Distance:
        by_class("mahalanobis", data, 2)
        means, whitening = gaussians(each(features, classifier, data.x), data.y, len(data.classes))
        return Distance(means, whitening, np.float32(self.magnitude), self.magnitude > 0)


def gaussians(values: np.ndarray, y: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Means [C, F] and whitening [F, F] of values [N, F] of classes y [N], computed in float64."""
    values = np.asarray(values, np.float64)
    means = np.stack([values[y == label].mean(0) for label in range(classes)])
    centred = values - means[y]
    spread, axes = np.linalg.eigh(centred.T @ centred / len(values))
    noise = len(spread) * np.finfo(np.float32).eps * max(spread[-1], 0.0)  # below it, rounding of float32 features
    scale = np.where(spread > noise, 1 / np.sqrt(np.maximum(spread, np.finfo(np.float64).tiny)), 0.0)
    return means.astype(np.float32), (axes * scale).astype(np.float32)
