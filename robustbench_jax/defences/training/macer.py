"""macer(sigma): raises the certified radius itself, where the smoothed model is right and the radius still short.

Reference: Zhai et al., ICLR 2020, arXiv:2001.02378.
With z = mean_i softmax(logits_i) over noisy copies of an image, z' the same of inverse_temperature * logits and
xi = Phi^-1(z'_y) - Phi^-1(max of the other z'), an image's loss is
    -log z_y + weight * sigma / 2 * max(gamma - xi, 0) where z' is right, and 0 in its place elsewhere.
Departs from the paper: probabilities are kept 1e-6 away from 0 and 1, where Phi^-1 has no gradient in float32.
Shapes: B batch, D input shape, C classes.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.ops.smoothing import noises, soft_cross_entropy
from robustbench_jax.registry import register
from robustbench_jax.training import TrainingDefence
from robustbench_jax.types import Classifier, UserError, record, require_positive, static

EDGE = 1e-6


@register("training", "macer", paper="zhai2020")
@record
class Macer(TrainingDefence):
    """sigma: the standard deviation of the noise, on the scale of [0, 1]. copies: of each image, with other noise.

    The paper has 16 copies, gamma = 8 and inverse_temperature = 16; weight = 16 at sigma = 0.25 for MNIST, 12 for
    CIFAR-10, and 4 there at 0.5.
    """

    sigma: float = 0.25
    weight: float = 12.0
    gamma: float = 8.0
    inverse_temperature: float = 16.0
    copies: int = static(default=16)

    def __post_init__(self):
        require_positive("macer", sigma=self.sigma, gamma=self.gamma, inverse_temperature=self.inverse_temperature)
        require_positive("macer", copies=self.copies)
        if isinstance(self.weight, int | float) and self.weight < 0:
            raise UserError(f"macer: weight = {self.weight} must be at least 0")

    def perturb(self, key: jax.Array, model: Classifier, x: jax.Array, y: jax.Array, ids: jax.Array) -> jax.Array:
        return jnp.concatenate(x + noises(key, x, ids, self.sigma, self.copies))

    def objective(self, key, model, clean, x, logits, y, progress) -> jax.Array:
        logits = logits.reshape(-1, len(y), logits.shape[-1])
        hinge = short_of(self.inverse_temperature * logits, y, self.gamma)
        return jnp.mean(soft_cross_entropy(logits, y) + self.weight * self.sigma / 2 * hinge)


def short_of(logits: jax.Array, y: jax.Array, gamma: jax.Array) -> jax.Array:
    """max(gamma - xi, 0) [B] of logits [copies, B, C], 0 where the mean probability is largest at another class."""
    mean = jnp.mean(jax.nn.softmax(logits), axis=0)
    own = jax.nn.one_hot(y, mean.shape[-1], dtype=bool)
    first, second = jnp.sum(jnp.where(own, mean, 0.0), axis=-1), jnp.max(jnp.where(own, 0.0, mean), axis=-1)
    xi = _quantile(first) - _quantile(second)
    return jnp.where(jnp.argmax(mean, axis=-1) == y, jnp.maximum(gamma - xi, 0.0), 0.0)


def _quantile(p: jax.Array) -> jax.Array:
    return jax.scipy.stats.norm.ppf(jnp.clip(p, EDGE, 1 - EDGE))
