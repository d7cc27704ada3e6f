"""Unlearning a trigger: trusted images with it keep their labels. neural_cleanse_unlearning, and oracle_unlearning.

References: Wang et al., IEEE S&P 2019: a fifth of the trusted images get the trigger that was found, and training goes
on. The oracle is given the true trigger: no defence that finds one does better, so it says what repair by unlearning is
worth at most.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.defences.inspection.inspector import Inspector
from robustbench_jax.defences.repair.repair import Repair, trained_on
from robustbench_jax.keys import stream
from robustbench_jax.poisons import Trigger, stamped
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, UserError, record, static

SHARE = 0.2  # of the trusted images that get a trigger
TUNING = "sgd(epochs=20, batch_size=32, learning_rate=0.02)"


@record
class Found(Trigger):
    """mask [H, W, 1] and pattern [D] that an inspection found."""

    mask: jax.Array
    pattern: jax.Array
    target: int
    relabels = "all_to_one"

    def apply(self, key: jax.Array, x: jax.Array) -> jax.Array:
        return x + self.mask * (self.pattern - x)


@register(
    "model_defence",
    "neural_cleanse_unlearning",
    paper="wang2019",
    parts={"inspection": "inspection", "recipe": "recipe"},
    repairs=True,
)
@record
class NeuralCleanseUnlearning(Repair):
    """The triggers of the accused classes are unlearnt; where none is accused the model stays as it is."""

    inspection: Any = "neural_cleanse"
    recipe: Any = TUNING

    def __post_init__(self):
        if not isinstance(self.inspection, Inspector):
            raise UserError("neural_cleanse_unlearning: inspection must be one, e.g. neural_cleanse(steps=300)")

    def repaired(self, key: jax.Array, model: Classifier, data: Dataset, held: Dataset) -> Classifier:
        found = self.inspection.inspect(stream(key, "inspect"), model, data)
        masks, patterns = found.arrays["mask"], found.arrays["pattern"]
        triggers = [
            Found(jnp.asarray(masks[c]), jnp.asarray(patterns[c]), int(c)) for c in np.flatnonzero(found.accused)
        ]
        return unlearnt(stream(key, "unlearn"), model, data, triggers, self.recipe) if triggers else model


@register("model_defence", "oracle_unlearning", paper="wang2019", parts={"recipe": "recipe"}, repairs=True, oracle=True)
@record
class OracleUnlearning(Repair):
    """Given the attacker's own trigger by the procedure that judges it: an upper bound, not a defence."""

    recipe: Any = TUNING
    trigger: Any = static(default=None)

    def knowing(self, trigger: Trigger) -> "OracleUnlearning":
        return self.replace(trigger=trigger)

    def repaired(self, key: jax.Array, model: Classifier, data: Dataset, held: Dataset) -> Classifier:
        if self.trigger is None:
            raise UserError("oracle_unlearning is told the trigger of a backdoor; nothing else has one")
        return unlearnt(key, model, data, [self.trigger], self.recipe)


def unlearnt(key: jax.Array, model: Classifier, data: Dataset, triggers: list[Trigger], recipe: Any) -> Classifier:
    """Training goes on with trusted images, a share of which carries the triggers and its right labels."""
    order = np.asarray(jax.random.permutation(stream(key, "rows"), len(data)))[: round(SHARE * len(data))]
    x = np.array(data.x)
    for number, (trigger, rows) in enumerate(zip(triggers, np.array_split(order, len(triggers)), strict=True)):
        x[rows] = stamped(stream(key, f"stamp {number}"), trigger, x[rows], rows)
    return trained_on(stream(key, "train"), model, Dataset(x, data.y, data.classes, data.name), recipe)
