"""fine_tuning(): the model trained on, on trusted images alone.

Reference: as the first baseline in Liu et al., RAID 2018, arXiv:1805.12185, section 4.
"""

from typing import Any

import jax

from robustbench_jax.defences.repair.repair import Repair, tuned
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, record


@register("model_defence", "fine_tuning", paper="liu2018", parts={"recipe": "recipe"}, repairs=True)
@record
class FineTuning(Repair):
    """recipe: how it is trained on."""

    recipe: Any | None = "sgd(epochs=20, batch_size=64, learning_rate=0.01)"

    def repair(self, key: jax.Array, classifier: Classifier, data: Dataset) -> Classifier:
        return tuned(key, classifier, data, self.recipe)
