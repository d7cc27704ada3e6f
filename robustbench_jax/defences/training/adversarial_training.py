"""adversarial_training(attack, budget): the cross-entropy of adversarial examples, made anew at every step.

Reference: Madry et al., ICLR 2018, arXiv:1706.06083. The attack takes all of its steps, also where it has succeeded.
Departs from the paper: the attack sees the model in inference mode (running statistics of batch norm).
"""

from typing import Any

import jax

from robustbench_jax.defences.training.adversarial import require_single, watching
from robustbench_jax.ops.drive import attack_batch
from robustbench_jax.ops.unjudged import Unstopped
from robustbench_jax.registry import register
from robustbench_jax.training import TrainingDefence
from robustbench_jax.types import Classifier, record


@register("training", "adversarial_training", paper="madry2018", parts={"attack": "attack", "budget": "budget"})
@record
class AdversarialTraining(TrainingDefence):
    """attack: any evasion attack that is no cascade; its first restart is used. budget: any ball."""

    attack: Any = "pgd(steps=10)"
    budget: Any = "linf(8/255)"

    def __post_init__(self):
        require_single("adversarial_training", self.attack)

    @property
    def watched(self) -> tuple[Any, Any]:
        return watching(self.budget)

    def perturb(self, key: jax.Array, model: Classifier, x: jax.Array, y: jax.Array, ids: jax.Array) -> jax.Array:
        return attack_batch(key, Unstopped(self.attack), model, self.budget, x, y, ids)
