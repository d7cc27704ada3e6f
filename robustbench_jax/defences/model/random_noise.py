"""random_noise(sigma): Gaussian noise on every image that is classified.

Reference: random self-ensemble, Liu et al., ECCV 2018, arXiv:1712.00673.
Departs from the paper: noise comes before the first layer alone, answers are not averaged over draws, and how the
network was trained is another matter (the training defence `gaussian_noise` has the same noise).
"""

import jax
import jax.numpy as jnp

from robustbench_jax.defences.model.preprocessing import Preprocessing
from robustbench_jax.registry import register
from robustbench_jax.types import record, require_positive


@register("model_defence", "random_noise", paper="liu2018rse")
@record
class RandomNoise(Preprocessing):
    """sigma: the standard deviation, on the scale of [0, 1], to which noisy images are clipped."""

    sigma: float = 0.05
    stochastic = True

    def __post_init__(self):
        require_positive("random_noise", sigma=self.sigma)

    def transform(self, key: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.clip(x + self.sigma * jax.random.normal(key, x.shape), 0.0, 1.0)
