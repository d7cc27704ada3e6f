"""oracle_unlearning(): the attacker's own trigger is unlearned; an upper bound of repair by unlearning, not a defence.

Reference: Wang et al., IEEE S&P 2019, doi 10.1109/SP.2019.00031, section VI, with the true trigger.
"""

from typing import Any

import jax

from robustbench_jax.defences.repair.repair import Repair
from robustbench_jax.defences.repair.unlearning import SHARE, unlearned
from robustbench_jax.poisons import Trigger
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, UserError, record, require_positive, static


@register(
    "model_defence",
    "oracle_unlearning",
    paper="wang2019",
    parts={"recipe": "recipe"},
    given=("trigger",),
    repairs=True,
    oracle=True,
)
@record
class OracleUnlearning(Repair):
    """share: of the trusted images, with the trigger; recipe: of the fine-tuning. The procedure that judges backdoors
    tells it the trigger.
    """

    share: float = SHARE
    recipe: Any | None = "sgd(epochs=20, batch_size=64, learning_rate=0.01)"
    trigger: Any = static(default=None)

    def __post_init__(self):
        require_positive("oracle_unlearning", share=self.share)

    def knowing(self, trigger: Trigger) -> "OracleUnlearning":
        return self.replace(trigger=trigger)

    def repair(self, key: jax.Array, classifier: Classifier, data: Dataset) -> Classifier:
        if self.trigger is None:
            raise UserError("oracle_unlearning is told the trigger of a backdoor; nothing else has one")
        return unlearned(key, classifier, data, self.trigger, self.recipe, self.share)
