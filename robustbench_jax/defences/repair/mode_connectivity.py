"""mode_connectivity(t): a model on a path of low loss between the one with the backdoor and a fine-tuned one.

Reference: Zhao et al., ICLR 2020, arXiv:2005.00060, after Garipov et al., NeurIPS 2018, arXiv:1802.10026: a quadratic
Bezier curve (1 - t)^2 a + 2 t (1 - t) b + t^2 c, of which b is trained on trusted images at t drawn evenly. Triggers
survive at the ends and get lost between them.
Departs from the paper: the other end is the same model fine-tuned on the trusted images, where one has no second one.
"""

from typing import Any

import jax
import jax.numpy as jnp

from robustbench_jax.defences.repair.repair import Repair, tuned
from robustbench_jax.keys import stream
from robustbench_jax.models.net import Params
from robustbench_jax.registry import register
from robustbench_jax.training import TrainingDefence
from robustbench_jax.types import Classifier, Dataset, UserError, record


@record
class OnThePath(TrainingDefence):
    """The cross-entropy, in inference mode, at a random point of the path between two ends by way of the weights that
    are trained.
    """

    start: Params
    end: Params

    def objective(self, key, model, clean, x, logits, y, progress) -> jax.Array:
        there = bezier(self.start, model.net.trainable(model.params), self.end, jax.random.uniform(key))
        return self.loss(jax.vmap(model.replace(params=model.params | there))(x), y)


def bezier(start: Params, middle: Params, end: Params, t: Any) -> Params:
    """The point at t, from 0 to 1."""
    return {
        name: (1 - t) ** 2 * start[name] + 2 * t * (1 - t) * value + t**2 * end[name] for name, value in middle.items()
    }


@register(
    "model_defence", "mode_connectivity", paper="zhao2020", parts={"tuning": "recipe", "recipe": "recipe"}, repairs=True
)
@record
class ModeConnectivity(Repair):
    """t: where on the path; tuning: of the other end; recipe: how the path is trained."""

    t: float = 0.5
    tuning: Any = "sgd(epochs=20, batch_size=64, learning_rate=0.05)"
    recipe: Any | None = "sgd(epochs=40, batch_size=64, learning_rate=0.02)"

    def __post_init__(self):
        if isinstance(self.t, int | float) and not 0 <= self.t <= 1:
            raise UserError(f"mode_connectivity: t = {self.t} must be from 0 to 1")

    def repair(self, key: jax.Array, classifier: Classifier, data: Dataset) -> Classifier:
        net = classifier.net
        other = tuned(stream(key, "end"), classifier, data, self.tuning)
        start, end = net.trainable(classifier.params), net.trainable(other.params)
        between = classifier.replace(params=classifier.params | {k: (v + end[k]) / 2 for k, v in start.items()})
        path = tuned(stream(key, "path"), between, data, self.recipe, OnThePath(start, end))
        there = bezier(start, net.trainable(path.params), end, jnp.asarray(self.t))
        return classifier.replace(params=path.params | there)
