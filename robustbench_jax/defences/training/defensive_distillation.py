"""defensive_distillation(temperature): a student of soft labels at a high temperature, deployed at 1.

Reference: Papernot et al., IEEE S&P 2016, arXiv:1511.04508. Broken by Carlini & Wagner, S&P 2017, arXiv:1608.04644:
deployed logits are `temperature` times those it was trained with, so that the softmax saturates and the gradient of the
cross-entropy is zero in float32. An attack on the margin of the logits, or on rescaled ones, does not notice.
Departs from the paper: losses are multiplied by the temperature, so that their gradients have the size that they have
at 1 and a recipe serves any temperature.
Shapes: B batch, D input shape, C classes.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from robustbench_jax.registry import register
from robustbench_jax.training import TrainingDefence
from robustbench_jax.types import record, require_positive


@record
class Tempered(TrainingDefence):
    """The cross-entropy of logits over a temperature: how the teacher is trained."""

    temperature: float

    def loss(self, logits: jax.Array, y: jax.Array) -> jax.Array:
        return self.temperature * super().loss(logits / self.temperature, y)


@register("training", "defensive_distillation", paper="papernot2016distillation", given=("teacher",), obfuscates=True)
@record
class DefensiveDistillation(TrainingDefence):
    """temperature: that teacher and student are trained at; from 1 to 100 in the paper, 100 for MNIST."""

    temperature: float = 100.0
    teacher: Any = None

    def __post_init__(self):
        require_positive("defensive_distillation", temperature=self.temperature)

    def prepare(self, key, model, data, train):
        return self.replace(teacher=train("teacher", model, Tempered(self.temperature)))

    def objective(self, key, model, clean, x, logits, y, progress) -> jax.Array:
        soft = jax.nn.softmax(jax.vmap(self.teacher)(clean) / self.temperature)
        return self.temperature * jnp.mean(optax.softmax_cross_entropy(logits / self.temperature, soft))
