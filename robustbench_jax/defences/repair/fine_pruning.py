"""fine_pruning(): units that clean images leave asleep are removed, then the model is trained on.

Reference: Liu et al., RAID 2018, arXiv:1805.12185.
Departs from the paper: the units are the inputs of the head, which are the channels of the last convolution in
residual networks and the last dense layer elsewhere; pruning stops by the accuracy on held-out trusted images.
Shapes: F features.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.defences.repair.repair import Repair, accuracy, require_share, split, tuned
from robustbench_jax.keys import stream
from robustbench_jax.models.features import features
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.runtime import by_slices
from robustbench_jax.registry import register
from robustbench_jax.training import TrainingDefence
from robustbench_jax.types import Classifier, Dataset, record, require_positive, static

WIDTH = 128  # images at once


@record
class Masked(TrainingDefence):
    """Training in which rows of the head where mask [F] is 0 get no gradient: what is pruned stays pruned."""

    mask: jax.Array

    def combine(self, key: jax.Array, objective: Callable, weights: Any, batch: tuple, memory: Any) -> tuple:
        gradients, aux = jax.grad(objective, has_aux=True)(weights, batch)
        head = gradients["head/kernel"] * self.mask[:, None]
        return gradients | {"head/kernel": head}, aux, memory


@register("model_defence", "fine_pruning", paper="liu2018", parts={"recipe": "recipe"}, repairs=True)
@record
class FinePruning(Repair):
    """tolerance: how much held-out accuracy pruning may cost; held: the share of the trusted images that tells.
    steps: the share of all units that each step removes is 1 / steps. recipe: of the fine-tuning.
    """

    tolerance: float = 0.1
    held: float = 0.2
    steps: int = static(default=64)
    recipe: Any | None = "sgd(epochs=20, batch_size=64, learning_rate=0.01)"

    def __post_init__(self):
        require_positive("fine_pruning", steps=self.steps)
        require_share("fine_pruning", tolerance=self.tolerance, held=self.held)

    def repair(self, key: jax.Array, classifier: Classifier, data: Dataset) -> Classifier:
        used, held = split(key, data, self.held)
        mask = chosen_mask(classifier, awake(classifier, used), held, self.tolerance, self.steps)
        return tuned(stream(key, "tune"), pruned(classifier, mask), used, self.recipe, Masked(jnp.asarray(mask)))


def awake(classifier: Classifier, data: Dataset) -> np.ndarray:
    """The mean of each feature [F] over the images."""
    found = by_slices(lambda x: _features(classifier, x), [data.x], min(WIDTH, len(data)))
    return np.mean(found, axis=0)


@jax.jit
def _features(classifier, x):
    return jax.vmap(lambda image: features(classifier, image))(as_unit(x))


def pruned(classifier: Classifier, mask: np.ndarray) -> Classifier:
    """A classifier of its own, whose head does not see the features where mask [F] is 0."""
    head = classifier.params["head/kernel"] * jnp.asarray(mask)[:, None]
    return classifier.replace(params=classifier.params | {"head/kernel": head})


def chosen_mask(classifier: Classifier, means: np.ndarray, held: Dataset, tolerance: float, steps: int) -> np.ndarray:
    """float32 [F]: the last mask within tolerance when units go in the order of their means, the sleepiest first.
    One unit stays in any case.
    """
    order, least = np.argsort(means, kind="stable"), accuracy(classifier, held) - tolerance
    mask, size = np.ones(len(means), np.float32), max(1, len(means) // steps)
    for first in range(0, len(means) - 1, size):
        trial = mask.copy()
        trial[order[first : min(first + size, len(means) - 1)]] = 0
        if accuracy(pruned(classifier, trial), held) < least - 1e-9:
            break
        mask = trial
    return mask
