"""stochastic_masking(draws): pixels survive by chance, bright ones sooner than dark ones, and make up for the others.

Reference: stochastic activation pruning, Dhillon et al., ICLR 2018, arXiv:1803.01442, applied to the image alone; that
it hides gradients behind noise: Athalye, Carlini & Wagner, ICML 2018, arXiv:1802.00420.
A value x_j is drawn with probability p_j = x_j / sum(x); it survives with the probability 1 - (1 - p_j)^r that r draws
have it among them, and is divided by that, so that its mean is x_j.
Departs from the paper: values survive independently of each other, and are clipped to [0, 1], which takes less than
0.04% off the brightest at the default.
The gradient of its mean is the identity, which is what BPDA takes; its own is as noisy as the image.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.defences.model.preprocessing import Preprocessing
from robustbench_jax.registry import register
from robustbench_jax.types import record, require_positive


@register("model_defence", "stochastic_masking", paper="dhillon2018", obfuscates=True)
@record
class StochasticMasking(Preprocessing):
    """draws: r, as a multiple of the number of values in an image; the more, the fewer are lost."""

    draws: float = 8.0
    stochastic = True
    differentiable = False

    def __post_init__(self):
        require_positive("stochastic_masking", draws=self.draws)

    def transform(self, key: jax.Array, x: jax.Array) -> jax.Array:
        fixed = jax.lax.stop_gradient(x)
        chance = fixed / jnp.maximum(jnp.sum(fixed), 1e-12)
        survives = -jnp.expm1(self.draws * x.size * jnp.log1p(-chance))
        kept = jax.random.uniform(key, x.shape) < survives
        return jnp.where(kept, jnp.clip(x / jnp.maximum(survives, 1e-12), 0.0, 1.0), 0.0)
