"""What repairs share: model defences that change the weights of a network with the help of a few trusted images.

What a repair chooses (how many units to prune, at which threshold) it chooses on images held out of the trusted ones;
it never sees a test image (BackdoorBench prunes by the test set).
Shapes: N images, D input shape, C classes, U units.
"""

import jax
import numpy as np

from robustbench_jax.defences.model.preprocessing import ModelDefence
from robustbench_jax.defences.training.standard import Standard
from robustbench_jax.keys import stream
from robustbench_jax.models.net import Net, Params
from robustbench_jax.ops.judge import classify
from robustbench_jax.training import TrainingDefence, fit
from robustbench_jax.types import Classifier, Dataset, UserError


class Repair(ModelDefence):
    """A model defence whose result has the same network with other weights."""

    def protect(self, key: jax.Array, classifier: Classifier, data: Dataset) -> Classifier:
        """The repaired classifier; data: trusted images. The key is consumed.

        Raises UserError for a model that is not one of our networks: its weights cannot be told apart.
        """
        if not isinstance(classifier.net, Net):
            raise UserError(f"{self.registered[1]} repairs networks of our own architectures alone")
        return self.repair(key, classifier, data)

    def repair(self, key: jax.Array, classifier: Classifier, data: Dataset) -> Classifier:
        raise NotImplementedError


def tuned(
    key: jax.Array, classifier: Classifier, data: Dataset, recipe, defence: TrainingDefence | None = None
) -> Classifier:
    """The classifier trained on, from the weights that it has; as it is where the recipe is None."""
    if recipe is None:
        return classifier
    return fit(key, classifier, data, recipe, defence=Standard() if defence is None else defence)


def split(key: jax.Array, data: Dataset, held: float) -> tuple[Dataset, Dataset]:
    """(used, held out): the trusted images that a repair works with, and the share `held` that it chooses by."""
    count = int(held * len(data) + 0.5)
    if not 0 < count < len(data):
        raise UserError(f"held = {held} of {len(data)} trusted images: both parts need one")
    order = np.asarray(jax.random.permutation(stream(key, "held"), len(data)))
    return data.rows(np.sort(order[count:])), data.rows(np.sort(order[:count]))


def accuracy(classifier: Classifier, data: Dataset) -> float:
    return float(np.mean(classify(classifier, data.x) == data.y))


def kernels(params: Params) -> tuple[str, ...]:
    """Names of the weights [..., U] of hidden layers: all kernels but the head's."""
    return tuple(name for name in sorted(params) if name.endswith("kernel") and not name.startswith("head/"))


def require_share(owner: str, **values: float) -> None:
    """UserError for what is not a share from 0 to below 1."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise UserError(f"{owner}: {name} = {value} must be at least 0 and below 1")
