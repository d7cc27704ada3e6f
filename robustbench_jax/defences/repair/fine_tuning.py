"""fine_tuning(recipe): training goes on with trusted images alone.

Reference: the baseline of Wu et al., NeurIPS Datasets and Benchmarks 2022, arXiv:2206.12654 (BackdoorBench).
"""

from typing import Any

import jax

from robustbench_jax.defences.repair.repair import Repair, trained_on
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, record


@register("model_defence", "fine_tuning", paper="wu2022backdoorbench", parts={"recipe": "recipe"}, repairs=True)
@record
class FineTuning(Repair):
    """recipe: batches must not be larger than the trusted images, less a fifth."""

    recipe: Any = "sgd(epochs=20, batch_size=32, learning_rate=0.02)"

    def repaired(self, key: jax.Array, model: Classifier, data: Dataset, held: Dataset) -> Classifier:
        return trained_on(key, model, data, self.recipe)
