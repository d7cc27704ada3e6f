"""hat(budget, beta, gamma): TRADES, and images beyond the ball that have the label a standard model gives them.

Reference: Rade & Moosavi-Dezfooli, ICLR 2022, openreview Azh9QBQ4tR7 (helper-based adversarial training). With x_adv
made as in TRADES, the helper image is x + stretch * (x_adv - x) and its label what a model with standard training says
of x_adv; so the margin grows no further than other images need it. The loss is that of TRADES plus
gamma * cross-entropy(helper image, its label). Helper images are not cut to [0, 1], as in the authors' code.
Departs from the paper: clean, perturbed and helper images are one batch in batch norm; the standard model has the
recipe of the model itself.
Shapes: B batch, D input shape, C classes.
"""

from typing import Any

import jax
import jax.numpy as jnp

from robustbench_jax.defences.training.adversarial import Adversarial, require_at_least_0
from robustbench_jax.defences.training.trades import divergence, furthest
from robustbench_jax.ops.ascent import logits_of
from robustbench_jax.registry import build, register
from robustbench_jax.training import Train
from robustbench_jax.types import Classifier, Dataset, record, require_positive


@register("training", "hat", paper="rade2022", parts={"budget": "budget"}, given=("helper",))
@record
class HAT(Adversarial):
    """beta, gamma: the weights of the divergence and of the helper images; stretch: how far out those are, in parts of
    the perturbation. The defaults are the paper's for CIFAR-10 at 8/255. helper: the standard model, which `prepare`
    trains first.
    """

    beta: float = 2.5
    gamma: float = 0.5
    stretch: float = 2.0
    helper: Any = None

    def __post_init__(self):
        super().__post_init__()
        require_at_least_0("hat", beta=self.beta, gamma=self.gamma)
        require_positive("hat", stretch=self.stretch)

    def prepare(self, key: jax.Array, model: Classifier, data: Dataset, train: Train) -> "HAT":
        return self.replace(helper=train("helper", model, build("training", "standard")))

    def perturb(self, key: jax.Array, model: Classifier, x: jax.Array, y: jax.Array, ids: jax.Array) -> jax.Array:
        """[3 B, D]: perturbed, clean and helper images."""
        moved = furthest(key, model, self.budget, x, ids, self.steps, self.step_size)
        return jnp.concatenate([moved, x, x + self.stretch * (moved - x)])

    def objective(self, key, model, clean, x, logits, y, progress) -> jax.Array:
        moved, plain, beyond = logits.reshape(3, len(y), -1)
        said = jnp.argmax(logits_of(self.helper, x[: len(y)]), axis=-1)
        return self.loss(plain, y) + self.beta * divergence(plain, moved) + self.gamma * self.loss(beyond, said)
