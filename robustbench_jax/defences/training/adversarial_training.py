"""adversarial_training(attack, budget): the cross-entropy of adversarial examples, made anew at every step.

Reference: Madry et al., ICLR 2018, arXiv:1706.06083.
Departs from the paper: the attack sees the model in inference mode (running statistics of batch norm).
"""

from typing import Any

import jax

from robustbench_jax.ops.drive import attack_batch
from robustbench_jax.registry import register
from robustbench_jax.training import TrainingDefence
from robustbench_jax.types import Classifier, UserError, record


@register("training", "adversarial_training", paper="madry2018", parts={"attack": "attack", "budget": "budget"})
@record
class AdversarialTraining(TrainingDefence):
    """attack: any evasion attack that is no cascade; its first restart is used. budget: any ball."""

    attack: Any = "pgd(steps=10)"
    budget: Any = "linf(8/255)"

    def __post_init__(self):
        if getattr(self.attack, "composite", False):
            raise UserError("adversarial_training: attack = cascade(...) has no single result; give one attack")

    @property
    def watched(self) -> tuple[Any, Any]:
        return self.attack, self.budget

    def perturb(self, key: jax.Array, model: Classifier, x: jax.Array, y: jax.Array, ids: jax.Array) -> jax.Array:
        return attack_batch(key, self.attack, model, self.budget, x, y, ids)
