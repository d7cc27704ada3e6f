"""vanishing(sharpness): likelihoods in place of logits, so sharp that their float32 gradients are exactly zero.

References: defensive distillation, Papernot et al., S&P 2016, arXiv:1511.04508, makes logits larger by about its
temperature; that nothing but gradients vanishes: Carlini & Wagner, S&P 2017, arXiv:1608.04644. Here the factor is put
in by hand: predictions stay what they are, and gradients are zero where the two largest logits are more than
about 100 / sharpness apart. Probabilities are divided by the largest of them and not by their sum, since rounding of a
sum leaves a trace of the gradient, which is all that a signed step needs.
Shapes: C classes.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.defences.model.preprocessing import ModelDefence
from robustbench_jax.models.masked import Masked
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, record, require_positive


@register("model_defence", "vanishing", paper="papernot2016distillation", obfuscates=True)
@record
class Vanishing(ModelDefence):
    """sharpness: the factor of the logits."""

    sharpness: float = 1000.0

    def __post_init__(self):
        require_positive("vanishing", sharpness=self.sharpness)

    def hide(self, key: jax.Array | None, x: jax.Array, logits: jax.Array) -> jax.Array:
        """What is answered instead of logits [C]; of the same order."""
        return jnp.exp(self.sharpness * (logits - jnp.max(logits)))

    def protect(self, key: jax.Array, classifier: Classifier, data: Dataset) -> Classifier:
        return Classifier(Masked(classifier.net, classifier.stochastic), (classifier.params, self))
