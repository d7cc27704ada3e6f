"""finetuned(defence, source): training goes on from the weights of a trained model, such as a robust one.

Reference: Croce & Hein, ICML 2022, arXiv:2105.12508: one to three epochs of `e_at` from a model that is robust in one
norm make one that is robust in several.
"""

from typing import Any

import jax

from robustbench_jax.defences.training.wrapped import WrappedTraining
from robustbench_jax.models.net import with_params
from robustbench_jax.registry import register
from robustbench_jax.training import Train
from robustbench_jax.types import Classifier, Dataset, UserError, record


@register("training", "finetuned", paper="croce2022", parts={"defence": "training", "source": "pretrained"})
@record
class FineTuned(WrappedTraining):
    """source: a trained model of the same architecture, e.g. zoo("fashion_mnist/linf/pgd_at")."""

    defence: Any
    source: Any

    def prepare(self, key: jax.Array, model: Classifier, data: Dataset, train: Train) -> "FineTuned":
        """Raises UserError where the source does not fit; models beside it are trained from fresh weights."""
        self.initialise(model)
        return super().prepare(key, model, data, train)

    def initialise(self, model: Classifier) -> Classifier:
        """The source, in the place of what the inner defence would begin with."""
        loaded, _ = self.source.load()
        begun = with_params(model, loaded.params, f"finetuned: source = {self.source}")
        if loaded.net != model.net:
            raise UserError(f"finetuned: source = {self.source} has the weights' shapes, but is another architecture")
        return begun
