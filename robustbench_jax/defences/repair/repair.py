"""What repairs share: trusted images to work with and others to choose by, training that goes on, masks of units.

A repair sees trusted images only. What it chooses (how much is pruned) it chooses by a fifth of these that it does
nothing else with; published code chooses by test images.
Shapes: N trusted images, U units of a layer.
"""

from typing import Any

import jax
import numpy as np

from robustbench_jax.defences.model.preprocessing import ModelDefence
from robustbench_jax.keys import stream
from robustbench_jax.models.net import Net
from robustbench_jax.ops.judge import classify
from robustbench_jax.registry import build
from robustbench_jax.training import TrainingDefence, fit
from robustbench_jax.types import Classifier, Dataset, UserError

HELD_OUT = 5  # one trusted image in so many is for choosing


class Repair(ModelDefence):
    """A model defence that changes the weights and nothing else."""

    def repaired(self, key: jax.Array, model: Classifier, data: Dataset, held: Dataset) -> Classifier:
        """The model with other weights; data: trusted images; held: others, to choose by. The key is consumed."""
        raise NotImplementedError

    def protect(self, key: jax.Array, classifier: Classifier, data: Dataset) -> Classifier:
        if not isinstance(classifier.net, Net):
            raise UserError(f"{self.registered[1]} repairs a bare network of this package, not what stands around one")
        seen, held = apart(stream(key, "held out"), data)
        return self.repaired(stream(key, "repair"), classifier, seen, held)


def apart(key: jax.Array, data: Dataset) -> tuple[Dataset, Dataset]:
    """Images to work with, and a fifth of all to choose by."""
    order, count = np.asarray(jax.random.permutation(key, len(data))), -(-len(data) // HELD_OUT)
    parts = (np.sort(order[count:]), np.sort(order[:count]))
    return tuple(Dataset(data.x[rows], data.y[rows], data.classes, data.name) for rows in parts)


def trained_on(
    key: jax.Array, model: Classifier, data: Dataset, recipe: Any, defence: TrainingDefence | None = None
) -> Classifier:
    """Training that goes on from the model's weights, on few images. No epochs: the model itself."""
    return fit(key, model, data, recipe, defence=defence or build("training", "standard"))


def accuracy(model: Classifier, data: Dataset) -> float:
    return float(np.mean(classify(model, data.x) == data.y))


def layers(model: Classifier) -> list[str]:
    """Names of the kernels before the head, in the order of the parameters: those whose outputs are units."""
    kernels = [name for name in model.params if name.endswith("/kernel") and name in model.net.weights]
    return [name for name in kernels if not name.startswith("head")]


def scaled(model: Classifier, layer: str, mask: np.ndarray) -> Classifier:
    """The model with each unit [U] of a layer times its mask: kernel and bias, which for ReLU networks scales what the
    next layer sees.
    """
    bias = layer.removesuffix("kernel") + "bias"
    changed = {name: model.params[name] * mask for name in (layer, bias) if name in model.params}
    return model.replace(params=model.params | changed)
