"""ard(teacher): a student that says of adversarial images what a robust teacher says of the clean ones.

Reference: Goldblum et al., AAAI 2020, arXiv:1905.09747 (adversarially robust distillation). With t the temperature,
    weight * t^2 * KL(teacher(x) / t || student(x_adv) / t) + (1 - weight) * cross-entropy(student(x), y)
where x_adv maximises the student's cross-entropy.
Departs from the paper: KL is summed over the classes (the authors' program divides by their number as well, which only
scales it against the second term); batch norm has the statistics of clean and adversarial images together.
Shapes: B batch, D input shape, C classes.
"""

from typing import Any

import jax
import jax.numpy as jnp

from robustbench_jax.defences.training.adversarial_training import AdversarialTraining
from robustbench_jax.defences.training.teachers import taught
from robustbench_jax.defences.training.trades import divergence
from robustbench_jax.registry import register
from robustbench_jax.training import TrainingDefence
from robustbench_jax.types import UserError, record, require_positive, static


@register(
    "training",
    "ard",
    paper="goldblum2020",
    parts={"teacher": "pretrained", "attack": "attack", "budget": "budget"},
    given=("loaded",),
)
@record
class ARD(TrainingDefence):
    """teacher: a robust trained model, e.g. zoo("fashion_mnist/linf/pgd_at"); None: one of the student's architecture
    is trained by adversarial_training(attack, budget) first. The paper has weight = 1 and temperature = 30.
    """

    teacher: Any = static(default=None)
    attack: Any = "pgd(steps=10)"
    budget: Any = "linf(8/255)"
    temperature: float = 30.0
    weight: float = 1.0
    loaded: Any = None

    def __post_init__(self):
        require_positive("ard", temperature=self.temperature)
        if isinstance(self.weight, int | float) and not 0 <= self.weight <= 1:
            raise UserError(f"ard: weight = {self.weight} must be from 0 to 1")
        self.robust  # noqa: B018 refuses what adversarial training refuses

    @property
    def watched(self) -> tuple[Any, Any]:
        return self.robust.watched

    @property
    def robust(self) -> AdversarialTraining:
        return AdversarialTraining(self.attack, self.budget)

    def prepare(self, key, model, data, train):
        return self.replace(loaded=taught("ard", self.teacher, model, data.x.shape[1:], self.robust, train))

    def perturb(self, key, model, x, y, ids):
        """[2 B, D]: the adversarial images, then the clean ones."""
        return jnp.concatenate([self.robust.perturb(key, model, x, y, ids), x])

    def objective(self, key, model, clean, x, logits, y, progress) -> jax.Array:
        of_adv, of_clean = jnp.split(logits, 2)
        said = jax.vmap(self.loaded)(clean)
        apart = divergence(said / self.temperature, of_adv / self.temperature)
        return self.weight * self.temperature**2 * apart + (1 - self.weight) * self.loss(of_clean, y)
