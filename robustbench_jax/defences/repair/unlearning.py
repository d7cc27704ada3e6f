"""neural_cleanse_unlearning(): the triggers that Neural Cleanse finds are unlearned.

Reference: Wang et al., IEEE S&P 2019, doi 10.1109/SP.2019.00031, section VI: fine-tuning on trusted images, a share of
them with the recovered trigger and their right labels. `unlearned` does so with any trigger, such as the true one.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.defences.inspection.neural_cleanse import NeuralCleanse
from robustbench_jax.defences.repair.repair import Repair, tuned
from robustbench_jax.keys import stream
from robustbench_jax.poisons import Trigger, stamped
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, record, require_positive

SHARE = 0.2


@record
class Recovered(Trigger):
    """mask [H, W, 1] and pattern [H, W, K] that an inspection found for the class `target`."""

    mask: jax.Array
    pattern: jax.Array
    target: int
    relabels = "all_to_one"

    def apply(self, key: jax.Array, x: jax.Array) -> jax.Array:
        return x + self.mask * (self.pattern - x)


def unlearned(
    key: jax.Array, classifier: Classifier, data: Dataset, trigger: Trigger, recipe: Any, share: float = SHARE
) -> Classifier:
    """The classifier fine-tuned on trusted images, `share` of them with the trigger, all with their right labels."""
    return tuned(stream(key, "tune"), classifier, with_triggers(key, data, [trigger], share), recipe)


def with_triggers(key: jax.Array, data: Dataset, triggers: list[Trigger], share: float = SHARE) -> Dataset:
    """The data with `share` of the images, drawn by key, replaced by themselves with one trigger, each as many."""
    x = np.array(data.x)
    rows = np.asarray(jax.random.permutation(stream(key, "rows"), len(data)))[: int(share * len(data) + 0.5)]
    for number, trigger in enumerate(triggers):
        own = rows[number :: len(triggers)]
        x[own] = stamped(jax.random.fold_in(stream(key, "stamp"), number), trigger, data.x[own], own)
    return Dataset(x, data.y, data.classes, data.name)


@register(
    "model_defence",
    "neural_cleanse_unlearning",
    paper="wang2019",
    parts={"recipe": "recipe", "inspection": "inspection"},
    repairs=True,
)
@record
class NeuralCleanseUnlearning(Repair):
    """inspection: a neural_cleanse; share: of the trusted images, with a trigger; recipe: of the fine-tuning. A model
    of which no class is accused stays as it is.
    """

    inspection: Any = "neural_cleanse()"
    share: float = SHARE
    recipe: Any | None = "sgd(epochs=20, batch_size=64, learning_rate=0.01)"

    def __post_init__(self):
        require_positive("neural_cleanse_unlearning", share=self.share)

    def repair(self, key: jax.Array, classifier: Classifier, data: Dataset) -> Classifier:
        inspection: NeuralCleanse = self.inspection
        found = inspection.inspect(stream(key, "inspect"), classifier, data)
        triggers = [
            Recovered(jnp.asarray(found.arrays["mask"][c]), jnp.asarray(found.arrays["pattern"][c]), int(c))
            for c in np.flatnonzero(found.accused)
        ]
        if not triggers:
            return classifier
        return tuned(stream(key, "tune"), classifier, with_triggers(key, data, triggers, self.share), self.recipe)
