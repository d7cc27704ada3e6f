"""nad(beta): fine-tuning towards the attention of a teacher, which is the same model fine-tuned before.

Reference: Li et al., ICLR 2021, arXiv:2101.05930: ||A(s) / ||A(s)|| - A(t) / ||A(t)||||^2 for each layer, where A sums
the squares of a layer's channels.
Departs from the paper: the distance is a mean over a layer's positions (of sums, a small network diverged with beta =
500); all layers have the same beta; of layers without positions each unit's square is taken.
"""

from typing import Any

import jax
import jax.numpy as jnp

from robustbench_jax.defences.repair.repair import Repair, tuned
from robustbench_jax.keys import stream
from robustbench_jax.models.features import layer_inputs
from robustbench_jax.registry import register
from robustbench_jax.training import TrainingDefence
from robustbench_jax.types import Classifier, Dataset, UserError, record


@record
class Attentive(TrainingDefence):
    """The cross-entropy and beta times the distance of attention from that of the teacher."""

    teacher: Classifier
    beta: float

    def objective(self, key, model, clean, x, logits, y, progress) -> jax.Array:
        distances = jax.vmap(lambda image: attention_distance(model, self.teacher, image))(x)
        return self.loss(logits, y) + self.beta * jnp.mean(distances)


def attention_distance(student: Classifier, teacher: Classifier, x: jax.Array) -> jax.Array:
    """For one image x [D], summed over the layers; the first layer's input is the image, which is left out."""
    pairs = zip(layer_inputs(student, x)[1:], layer_inputs(teacher, x)[1:], strict=True)
    return sum(jnp.mean((attention(one) - attention(other)) ** 2) for one, other in pairs)


def attention(activations: jax.Array) -> jax.Array:
    """[H, W, U] or [U] -> a vector of norm 1."""
    squares = activations**2
    found = (jnp.sum(squares, -1) if squares.ndim > 1 else squares).ravel()
    return found / jnp.sqrt(jnp.sum(found**2) + 1e-12)


@register("model_defence", "nad", paper="li2021", parts={"recipe": "recipe", "teacher": "recipe"}, repairs=True)
@record
class NAD(Repair):
    """beta: weight of the attention; teacher: how the teacher is fine-tuned; recipe: how the model is."""

    beta: float = 500.0
    teacher: Any | None = "sgd(epochs=10, batch_size=64, learning_rate=0.01)"
    recipe: Any | None = "sgd(epochs=20, batch_size=64, learning_rate=0.01)"

    def __post_init__(self):
        if not self.beta >= 0:
            raise UserError(f"nad: beta = {self.beta} must be at least 0")

    def repair(self, key: jax.Array, classifier: Classifier, data: Dataset) -> Classifier:
        teacher = tuned(stream(key, "teacher"), classifier, data, self.teacher)
        return tuned(stream(key, "student"), classifier, data, self.recipe, Attentive(teacher, self.beta))
