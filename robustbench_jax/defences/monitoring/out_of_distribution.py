"""out_of_distribution(): more unusual images than honest accounts send.

References: energy, Liu et al., NeurIPS 2020, arXiv:2010.03759; largest probability, Hendrycks & Gimpel, ICLR 2017,
arXiv:1610.02136; Mahalanobis distance of the features, Lee et al., NeurIPS 2018, arXiv:1807.03888; and Page's CUSUM,
Biometrika 1954, which adds the evidence of many queries up, so that one odd image is no alarm.
An image is odd where its score is above that of all but a share `odd` of training images. The sum grows by the log
likelihood ratio of "a share `shifted` of the images is odd" against "a share `odd` is", and never falls below 0.
Shapes: D input shape, C classes.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.defences.serving.mahalanobis import Distance, gaussians
from robustbench_jax.models.features import each, features, logits_of
from robustbench_jax.ops.images import as_unit
from robustbench_jax.registry import nearest, register
from robustbench_jax.traffic import Monitor, Request
from robustbench_jax.types import Classifier, UserError

SCORES = ("energy", "max_softmax", "mahalanobis")


@register("monitor", "out_of_distribution", paper="liu2020", given=("learnt",))
@dataclass(frozen=True)
class OutOfDistribution(Monitor):
    """measure: "energy", "max_softmax" or "mahalanobis"."""

    measure: str = "energy"
    odd: float = 0.05
    shifted: float = 0.3
    threshold: float | None = None
    rate: float = 0.01
    learnt: Any = None

    def __post_init__(self):
        super().__post_init__()
        if self.measure not in SCORES:
            raise UserError(f"out_of_distribution: no measure '{self.measure}'{nearest(self.measure, SCORES)}")
        if not 0 < self.odd < self.shifted < 1:
            raise UserError(
                f"out_of_distribution: odd = {self.odd} and shifted = {self.shifted}: give 0 < odd < shifted < 1"
            )

    def learn(self, key, model, data) -> "OutOfDistribution":
        if self.measure != "mahalanobis":
            values = [_of_logits(self.measure, one) for one in logits_of(model, data.x)]
            return replace(self, learnt=(None, float(np.quantile(values, 1 - self.odd))))
        means, whitening = gaussians(each(features, model, data.x), data.y, len(data.classes))
        near = Distance(jnp.asarray(means), jnp.asarray(whitening), jnp.float32(0.0))
        values = each(_far, model, data.x, near)
        return replace(self, learnt=((model.keyed(key), near), float(np.quantile(values, 1 - self.odd))))

    def init(self) -> np.ndarray:
        """The sum [1]."""
        return np.zeros(1)

    def score(self, state: np.ndarray, request: Request) -> tuple[float, dict[str, Any]]:
        fitted, limit = self.learnt
        value = float(_one(*fitted, request.x)) if fitted else _of_logits(self.measure, request.logits)
        odd = value > limit
        ratio = np.log(self.shifted / self.odd) if odd else np.log((1 - self.shifted) / (1 - self.odd))
        state[0] = max(0.0, state[0] + ratio)
        return float(state[0]), {"measure": self.measure, "value": value, "odd_above": limit, "odd": bool(odd)}


def _of_logits(measure: str, logits: np.ndarray) -> float:
    """How unusual logits [C] are."""
    logits = np.asarray(logits, np.float64)
    energy = float(np.logaddexp.reduce(logits))
    return -energy if measure == "energy" else energy - float(logits.max())


def _far(model: Classifier, x: jax.Array, near: Distance) -> jax.Array:
    return near(model, x)


@jax.jit
def _one(model: Classifier, near: Distance, x: jax.Array) -> jax.Array:
    return near(model, as_unit(x))
