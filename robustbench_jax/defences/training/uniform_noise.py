"""uniform_noise(sigma): the cross-entropy of images with uniform noise; the training of smoothing in L1.

Reference: Yang et al., ICML 2020, arXiv:2002.08118. Noisy images are not clipped to [0, 1], as there.
"""

import jax

from robustbench_jax.keys import per_example
from robustbench_jax.ops.smoothing import draw
from robustbench_jax.registry import register
from robustbench_jax.training import TrainingDefence
from robustbench_jax.types import Classifier, record, require_positive


@register("training", "uniform_noise", paper="yang2020")
@record
class UniformNoise(TrainingDefence):
    """sigma: the standard deviation of the noise, on the scale of [0, 1]; it lies within sqrt(3) sigma of 0."""

    sigma: float = 0.25

    def __post_init__(self):
        require_positive("uniform_noise", sigma=self.sigma)

    def perturb(self, key: jax.Array, model: Classifier, x: jax.Array, y: jax.Array, ids: jax.Array) -> jax.Array:
        return x + self.sigma * jax.vmap(lambda key: draw("uniform", key, x.shape[1:]))(per_example(key, ids))
