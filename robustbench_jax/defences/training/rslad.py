"""rslad(budget, teacher): a student of a robust teacher's soft labels alone, in its attack as in its loss.

Reference: Zi et al., ICCV 2021, arXiv:2108.07969. With t the teacher's probabilities of the clean image, the loss is
weight * KL(t || student(x_adv)) + (1 - weight) * KL(t || student(x)), where x_adv ascends the first of them. The weight
is that of the authors' program.
Departs from the paper: batch norm has the statistics of clean and adversarial images together.
Shapes: B batch, D input shape, C classes.
"""

from typing import Any

import jax
import jax.numpy as jnp

from robustbench_jax.defences.training.adversarial import Adversarial
from robustbench_jax.defences.training.adversarial_training import AdversarialTraining
from robustbench_jax.defences.training.teachers import taught
from robustbench_jax.defences.training.trades import NOISE, divergence
from robustbench_jax.ops.ascent import ascend, beside, logits_of
from robustbench_jax.ops.losses import kl
from robustbench_jax.registry import build, register
from robustbench_jax.types import UserError, record, static


@register("training", "rslad", paper="zi2021", parts={"teacher": "pretrained", "budget": "budget"}, given=("loaded",))
@record
class RSLAD(Adversarial):
    """teacher: a robust trained model, e.g. zoo("fashion_mnist/linf/pgd_at"); None: one of the student's architecture
    is trained by adversarial_training in the same ball first. weight: of the adversarial term.
    """

    teacher: Any = static(default=None)
    weight: float = 5 / 6
    loaded: Any = None

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.weight, int | float) and not 0 <= self.weight <= 1:
            raise UserError(f"rslad: weight = {self.weight} must be from 0 to 1")

    def prepare(self, key, model, data, train):
        attack = build("attack", f"pgd(steps={self.steps}, step_size={self.step_size})")
        robust = AdversarialTraining(attack, self.budget)
        return self.replace(loaded=taught("rslad", self.teacher, model, data.x.shape[1:], robust, train))

    def perturb(self, key, model, x, y, ids):
        """[2 B, D]: the adversarial images, then the clean ones."""
        said, start = logits_of(self.loaded, x), beside(key, self.budget, x, ids, NOISE)
        return jnp.concatenate([ascend(kl, model, self.budget, x, start, said, self.steps, self.step_size), x])

    def objective(self, key, model, clean, x, logits, y, progress) -> jax.Array:
        moved, plain = logits.reshape(2, len(y), -1)
        said = jax.vmap(self.loaded)(clean)
        return self.weight * divergence(said, moved) + (1 - self.weight) * divergence(said, plain)
