"""head_only(source): the features of a trained model, frozen, and a new last layer: transfer learning.

The setting in which feature collision and its successors are published (Shafahi et al., NeurIPS 2018,
arXiv:1804.00792). Gradients of all other weights are zero, and what the optimiser would do to them all the same (weight
decay, momentum) is undone: they stay as they are to the bit.
"""

import dataclasses
from typing import Any

import jax

from robustbench_jax.defences.training.standard import Standard
from robustbench_jax.models.net import with_params
from robustbench_jax.recipes import Recipe
from robustbench_jax.registry import register
from robustbench_jax.training import Run, Trained, TrainingDefence, fit_with_curve
from robustbench_jax.types import Classifier, Dataset, UserError, record

HEAD = "head/"


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
        head = {name: value for name, value in model.params.items() if name.startswith(HEAD)}
        if not head:
            raise UserError("head_only: the model has no head of its own")
        return begun.replace(params=begun.params | head)

    def loop(self, key: jax.Array, model: Classifier, data: Dataset, recipe: Recipe, run: Run) -> Trained:
        model = self.initialise(model)
        narrow = dataclasses.replace(model.net, weights=frozenset(n for n in model.net.weights if n.startswith(HEAD)))
        fitted, curve = fit_with_curve(key, model.replace(net=narrow), data, recipe, defence=Standard(), run=run)
        head = {name: value for name, value in fitted.params.items() if name.startswith(HEAD)}
        return model.replace(params=model.params | head), curve
