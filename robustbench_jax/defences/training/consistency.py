"""consistency(sigma): the model is to say the same of all noisy copies of an image, so that its smoothed self is sure.

Reference: Jeong & Shin, NeurIPS 2020, arXiv:2006.04062.
With F_i the softmax at copy i and F their mean, an image's loss is
    mean_i cross-entropy(F_i, y) + weight * mean_i KL(F || F_i) + entropy_weight * entropy(F).
Shapes: B batch, D input shape, C classes.
"""

import jax
import jax.numpy as jnp
import optax

from robustbench_jax.ops.smoothing import noises
from robustbench_jax.registry import register
from robustbench_jax.training import TrainingDefence
from robustbench_jax.types import Classifier, UserError, record, require_positive, static


@register("training", "consistency", paper="jeong2020")
@record
class Consistency(TrainingDefence):
    """sigma: the standard deviation of the noise, on the scale of [0, 1]. copies: of each image, with other noise.

    The paper has weight = 10 for MNIST; on CIFAR-10 20 at sigma = 0.25 and 10 from 0.5 on; entropy_weight = 0.5.
    """

    sigma: float = 0.25
    weight: float = 10.0
    entropy_weight: float = 0.5
    copies: int = static(default=2)

    def __post_init__(self):
        require_positive("consistency", sigma=self.sigma)
        for name in ("weight", "entropy_weight"):
            if isinstance(getattr(self, name), int | float) and getattr(self, name) < 0:
                raise UserError(f"consistency: {name} = {getattr(self, name)} must be at least 0")
        if isinstance(self.copies, int) and self.copies < 2:
            raise UserError(f"consistency: copies = {self.copies}: give 2 or more, to be consistent with one another")

    def perturb(self, key: jax.Array, model: Classifier, x: jax.Array, y: jax.Array, ids: jax.Array) -> jax.Array:
        return jnp.concatenate(x + noises(key, x, ids, self.sigma, self.copies))

    def objective(self, key, model, clean, x, logits, y, progress) -> jax.Array:
        return consistency(logits.reshape(-1, len(y), logits.shape[-1]), y, self.weight, self.entropy_weight)


def consistency(logits: jax.Array, y: jax.Array, weight: jax.Array, entropy_weight: jax.Array) -> jax.Array:
    """The mean loss of logits [copies, B, C]."""
    log = jax.nn.log_softmax(logits)
    log_mean = jax.nn.logsumexp(log, axis=0) - jnp.log(len(log))
    mean = jnp.exp(log_mean)
    fit = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, jnp.broadcast_to(y, log.shape[:2])))
    apart = jnp.mean(jnp.sum(mean * (log_mean - log), axis=-1))
    entropy = -jnp.mean(jnp.sum(mean * log_mean, axis=-1))
    return fit + weight * apart + entropy_weight * entropy
