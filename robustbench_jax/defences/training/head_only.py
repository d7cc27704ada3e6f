"""head_only(source): the features of a trained model, frozen, and a new last layer: transfer learning.

The setting in which feature collision and its successors are published (Shafahi et al., NeurIPS 2018,
arXiv:1804.00792). All other weights stay as they are to the bit. Where images are not augmented their features are
computed once, and the head is trained on these: the same up to rounding, and many times as fast.
Shapes: N images, F features, C classes.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from flax import nnx

from robustbench_jax.defences.training.standard import Standard
from robustbench_jax.models.blocks import Dense
from robustbench_jax.models.features import features_of
from robustbench_jax.models.net import Net, Params, with_params
from robustbench_jax.recipes import Recipe
from robustbench_jax.registry import register
from robustbench_jax.training import Run, Trained, TrainingDefence, fit_with_curve
from robustbench_jax.types import Classifier, Dataset, UserError, record

HEAD = "head/"
PLAIN = {"head/kernel", "head/bias"}  # of a dense head


@register("training", "head_only", paper="shafahi2018", parts={"source": "pretrained"})
@record
class HeadOnly(TrainingDefence):
    """source: a trained model of the same architecture, e.g. zoo("fashion_mnist/clean/standard")."""

    source: Any

    def initialise(self, model: Classifier) -> Classifier:
        """The source with the fresh model's head."""
        loaded, _ = self.source.load()
        begun = with_params(model, loaded.params, f"head_only: source = {self.source}")
        if loaded.net != model.net:
            raise UserError(f"head_only: source = {self.source} has the weights' shapes, but is another architecture")
        head = _head(model.params)
        if not head:
            raise UserError("head_only: the model has no head of its own")
        return begun.replace(params=begun.params | head)

    def loop(self, key: jax.Array, model: Classifier, data: Dataset, recipe: Recipe, run: Run) -> Trained:
        """On features that are computed once, which takes seconds, a run that was killed begins anew."""
        model = self.initialise(model)
        head = _head(model.params)
        if set(head) == PLAIN and recipe.augmentation == "none" and not _in_training(model.net):
            seen = dataclasses.replace(data, x=features_of(model, data.x).astype(np.float32))
            net, _ = Net.split(Linear(*head["head/kernel"].shape))
            trained, frozen, run = Classifier(net, head), seen, Run(report=run.report)
        else:
            weights = frozenset(name for name in model.net.weights if name.startswith(HEAD))
            trained, frozen = model.replace(net=dataclasses.replace(model.net, weights=weights)), data
        fitted, curve = fit_with_curve(key, trained, frozen, recipe, defence=Standard(), run=run)
        return model.replace(params=model.params | _head(fitted.params)), curve


class Linear(nnx.Module):
    """The head by itself, of features [..., F]."""

    def __init__(self, ins: int, outs: int):
        self.head = Dense(ins, outs, last=True, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(x)


def _head(params: Params) -> Params:
    return {name: value for name, value in params.items() if name.startswith(HEAD)}


def _in_training(net: Net) -> bool:
    """Whether the network is another function in training mode."""
    return net.training != net.inference
