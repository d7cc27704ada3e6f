"""label_smoothing(defence, amount): a share of each label is spread over all classes, whatever the defence.

Reference: Szegedy et al., CVPR 2016, arXiv:1512.00567; against overfitting in adversarial training, Pang et al., ICLR
2021, arXiv:2010.00467. The inner objective is averaged over labels: with probability `amount` a label is replaced by
one that is drawn evenly from all classes. For objectives that are linear in the one-hot label, such as a cross-entropy,
this is the loss of the smoothed label. Adversarial examples are made for the labels as they are.
Shapes: B batch, C classes.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from robustbench_jax.defences.training.wrapped import WrappedTraining
from robustbench_jax.registry import register
from robustbench_jax.types import UserError, record


@register("training", "label_smoothing", paper="szegedy2016", parts={"defence": "training"})
@record
class LabelSmoothing(WrappedTraining):
    """An inner objective that asks the model about labels (GradAlign, certified training) costs C times as much."""

    defence: Any
    amount: float = 0.1

    def __post_init__(self):
        if isinstance(self.amount, int | float) and not 0 <= self.amount < 1:
            raise UserError(f"label_smoothing: amount = {self.amount} must be at least 0 and below 1")

    def loss(self, logits: jax.Array, y: jax.Array) -> jax.Array:
        return self.smoothed(lambda y: self.defence.loss(logits, y), y, logits.shape[-1])

    def objective(self, key, model, clean, x, logits, y, progress) -> jax.Array:
        def inner(y):
            return self.defence.objective(key, model, clean, x, logits, y, progress)

        return self.smoothed(inner, y, logits.shape[-1])

    def smoothed(self, loss: Callable, y: jax.Array, classes: int) -> jax.Array:
        """The mean of loss(labels [B]) over labels smoothed by `amount`; shares [B, C] are smoothed themselves."""
        if y.ndim > 1:
            return loss((1 - self.amount) * y + self.amount / classes)
        every = jax.vmap(lambda label: loss(jnp.full_like(y, label)))(jnp.arange(classes))
        return (1 - self.amount) * loss(y) + self.amount * jnp.mean(every)
