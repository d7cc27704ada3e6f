"""fine_pruning(drop): units of the last hidden layer that clean images hardly use are cut off, then fine-tuning.

Reference: Liu, Dolan-Gavitt & Garg, RAID 2018, arXiv:1805.12185. As many units as possible while accuracy on held-out
trusted images falls by no more than `drop`; the last network within that is the one that is tuned on (BackdoorBench
tunes the first one beyond it, and looks at test images).
Shapes: U units.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.defences.repair.repair import Repair, accuracy, layers, scaled, trained_on
from robustbench_jax.defences.serving.detector import each
from robustbench_jax.models.features import features
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, UserError, record


@register("model_defence", "fine_pruning", paper="liu2018", parts={"recipe": "recipe"}, repairs=True)
@record
class FinePruning(Repair):
    """drop: of accuracy on held-out trusted images, from 0 to 1; recipe: of the fine-tuning that follows."""

    drop: float = 0.04
    recipe: Any = "sgd(epochs=20, batch_size=32, learning_rate=0.02)"

    def __post_init__(self):
        if not 0 <= self.drop <= 1:
            raise UserError(f"fine_pruning: drop = {self.drop} must be from 0 to 1")

    def repaired(self, key: jax.Array, model: Classifier, data: Dataset, held: Dataset) -> Classifier:
        return trained_on(key, pruned(model, data, held, self.drop)[0], data, self.recipe)


def pruned(model: Classifier, data: Dataset, held: Dataset, drop: float) -> tuple[Classifier, np.ndarray]:
    """(network, kept bool [U]): units go in the order of their mean activation on `data`, the least first."""
    layer, least = layers(model)[-1], accuracy(model, held) - drop
    used = np.mean(np.asarray(each(_units, model, data.x)), axis=0)
    kept, best = np.ones(len(used), bool), model
    for unit in np.argsort(used, kind="stable")[:-1]:
        fewer = kept & (np.arange(len(used)) != unit)
        candidate = scaled(model, layer, jnp.asarray(fewer, jnp.float32))
        if accuracy(candidate, held) < least:
            break
        kept, best = fewer, candidate
    return best, kept


def _units(model: Classifier, x: jax.Array) -> jax.Array:
    return jnp.abs(features(model, x))
