"""Losses that a wrong label cannot make large: gce(q), symmetric_cross_entropy(alpha, beta), bootstrapping(beta).

References: generalised cross-entropy: Zhang & Sabuncu, NeurIPS 2018, arXiv:1805.07836: (1 - p_y^q) / q, between the
cross-entropy (q to 0) and the mean absolute error (q = 1). Symmetric cross-entropy: Wang et al., ICCV 2019,
arXiv:1908.06112: alpha times the cross-entropy plus beta times that of the label under the prediction, where log 0 of
a label is -4. Bootstrapping: Reed et al., ICLR 2015 workshop, arXiv:1412.6596: the label, or with a share of 1 - beta
what the model says itself, softly or as one class.
Shapes: B batch, C classes.
"""

import jax
import jax.numpy as jnp
import optax

from robustbench_jax.registry import register
from robustbench_jax.training import TrainingDefence
from robustbench_jax.types import UserError, record

LOG_OF_ZERO = -4.0


@register("training", "gce", paper="zhang2018gce")
@record
class GeneralisedCrossEntropy(TrainingDefence):
    """q: above 0 and at most 1."""

    q: float = 0.7

    def __post_init__(self):
        if isinstance(self.q, int | float) and not 0 < self.q <= 1:
            raise UserError(f"gce: q = {self.q} must be above 0 and at most 1")

    def loss(self, logits: jax.Array, y: jax.Array) -> jax.Array:
        logs = jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=-1)[:, 0]
        return jnp.mean(-jnp.expm1(self.q * logs) / self.q)


@register("training", "symmetric_cross_entropy", paper="wang2019symmetric")
@record
class SymmetricCrossEntropy(TrainingDefence):
    """alpha, beta: weights of the cross-entropy and of the reverse one."""

    alpha: float = 0.1
    beta: float = 1.0

    def __post_init__(self):
        for name in ("alpha", "beta"):
            value = getattr(self, name)
            if isinstance(value, int | float) and value < 0:
                raise UserError(f"symmetric_cross_entropy: {name} = {value} must be at least 0")

    def loss(self, logits: jax.Array, y: jax.Array) -> jax.Array:
        forward = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        others = 1 - jnp.take_along_axis(jax.nn.softmax(logits), y[:, None], axis=-1)[:, 0]
        return jnp.mean(self.alpha * forward - self.beta * LOG_OF_ZERO * others)


@register("training", "bootstrapping", paper="reed2015")
@record
class Bootstrapping(TrainingDefence):
    """beta: the label's share; hard: whether the model's share goes to its likeliest class alone (the paper has beta =
    0.95 softly and 0.8 so). What the model says is a constant to the gradient.
    """

    beta: float = 0.95
    hard: bool = False

    def __post_init__(self):
        if isinstance(self.beta, int | float) and not 0 <= self.beta <= 1:
            raise UserError(f"bootstrapping: beta = {self.beta} must be from 0 to 1")

    def loss(self, logits: jax.Array, y: jax.Array) -> jax.Array:
        classes = logits.shape[-1]
        says = jax.lax.stop_gradient(jax.nn.softmax(logits))
        says = jnp.where(self.hard, jax.nn.one_hot(jnp.argmax(says, -1), classes), says)
        wanted = self.beta * jax.nn.one_hot(y, classes) + (1 - self.beta) * says
        return jnp.mean(optax.softmax_cross_entropy(logits, wanted))
