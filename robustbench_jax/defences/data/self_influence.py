"""self_influence(remove): images that matter most for their own loss.

Reference: Pruthi et al., NeurIPS 2020, arXiv:2002.08484 (TracIn), of the last layer and of one checkpoint: the squared
norm of the loss's gradient by the head, |softmax - onehot|^2 (|h|^2 + 1), h the features, in closed form.
"""

import jax
import numpy as np
from scipy.special import softmax

from robustbench_jax.defences.data.sanitiser import Sanitiser
from robustbench_jax.models.features import features_of, logits_of
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, record


@register("data_defence", "self_influence", paper="pruthi2020")
@record
class SelfInfluence(Sanitiser):
    """remove: share of all images."""

    remove: float = 0.05

    def score(self, key: jax.Array, model: Classifier, data: Dataset, trusted: Dataset) -> np.ndarray:
        wrong = softmax(logits_of(model, data.x), axis=-1) - np.eye(len(data.classes))[data.y]
        return np.sum(wrong**2, -1) * (np.sum(features_of(model, data.x) ** 2, -1) + 1)
