"""gaussian_noise(sigma): the cross-entropy of images with Gaussian noise; the training of randomised smoothing.

Reference: Cohen et al., ICML 2019, arXiv:1902.02918. Noisy images are not clipped to [0, 1], as there.
"""

import jax

from robustbench_jax.keys import per_example
from robustbench_jax.registry import register
from robustbench_jax.training import TrainingDefence
from robustbench_jax.types import Classifier, record, require_positive


@register("training", "gaussian_noise", paper="cohen2019")
@record
class GaussianNoise(TrainingDefence):
    """sigma: the standard deviation of the noise, on the scale of [0, 1]."""

    sigma: float = 0.25

    def __post_init__(self):
        require_positive("gaussian_noise", sigma=self.sigma)

    def perturb(self, key: jax.Array, model: Classifier, x: jax.Array, y: jax.Array, ids: jax.Array) -> jax.Array:
        return x + self.sigma * jax.vmap(lambda key: jax.random.normal(key, x.shape[1:]))(per_example(key, ids))
