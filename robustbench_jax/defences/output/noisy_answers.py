"""noisy_answers(sigma), tempered(temperature): answers with noise, and answers that are less or more certain.

References: noise against membership inference and extraction: Orekondy et al., ICLR 2020, arXiv:1906.10908, table of
baselines (random noise); temperature: Shokri et al., S&P 2017, arXiv:1610.05820, section VIII. Neither is a guarantee:
a network's probabilities have no small sensitivity, and whoever may ask again averages the noise away.
Shapes: C classes.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.defences.output.answer import Answer
from robustbench_jax.registry import register
from robustbench_jax.types import record, require_positive


@register("model_defence", "noisy_answers", paper="orekondy2020")
@record
class NoisyAnswers(Answer):
    """sigma: of Gaussian noise on each probability; what falls below 0 is 0."""

    sigma: float = 0.1
    stochastic = True

    def __post_init__(self):
        require_positive("noisy_answers", sigma=self.sigma)

    def answer(self, key: jax.Array, x: jax.Array, said: jax.Array) -> jax.Array:
        return jnp.maximum(said + self.sigma * jax.random.normal(key, said.shape), 0)


@register("model_defence", "tempered", paper="shokri2017")
@record
class Tempered(Answer):
    """temperature: that logits are divided by; the prediction stays."""

    temperature: float = 5.0

    def __post_init__(self):
        require_positive("tempered", temperature=self.temperature)

    def hide(self, key: jax.Array | None, x: jax.Array, logits: jax.Array) -> jax.Array:
        return logits / self.temperature
