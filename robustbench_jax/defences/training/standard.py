"""standard: no defence; the cross-entropy of the images as they are."""

import jax
import jax.numpy as jnp
import optax

from robustbench_jax.registry import register
from robustbench_jax.training import TrainingDefence
from robustbench_jax.types import UserError, record


@register("training", "standard")
@record
class Standard(TrainingDefence):
    """label_smoothing: the share of each label that is spread over all classes (Szegedy et al., arXiv:1512.00567)."""

    label_smoothing: float = 0.0

    def __post_init__(self):
        if isinstance(self.label_smoothing, float) and not 0 <= self.label_smoothing < 1:
            raise UserError(f"standard: label_smoothing = {self.label_smoothing} must be at least 0 and below 1")

    def loss(self, logits: jax.Array, y: jax.Array) -> jax.Array:
        labels = optax.smooth_labels(jax.nn.one_hot(y, logits.shape[-1]), self.label_smoothing)
        return jnp.mean(optax.softmax_cross_entropy(logits, labels))
