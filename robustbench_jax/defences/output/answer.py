"""What protections of the answer share: the model is as it was, and says less of what it knows, or something else.

They work on probabilities and hand on their logarithms, so that every attack of the package meets them as it would
meet a served model. Gradients of an attacker who knows of them pass straight to the undefended logits.
Shapes: C classes, D input shape.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.defences.model.preprocessing import ModelDefence
from robustbench_jax.models.masked import Masked
from robustbench_jax.types import Classifier, Dataset, UserError

FLOOR = 1e-8  # what a probability of 0 is taken for, so that its logarithm is finite


class Answer(ModelDefence):
    """A model defence that changes what is answered: `answer`, for one image, random where `stochastic`."""

    stochastic = False

    def answer(self, key: jax.Array | None, x: jax.Array, said: jax.Array) -> jax.Array:
        """What is answered to x [D] instead of probabilities [C]; need not sum to 1. key: None unless stochastic."""
        raise NotImplementedError

    def hide(self, key: jax.Array | None, x: jax.Array, logits: jax.Array) -> jax.Array:
        """The same as logits [C], before and after."""
        answered = jnp.maximum(self.answer(key, x, jax.nn.softmax(logits)), FLOOR)
        return jnp.log(answered / answered.sum())

    def protect(self, key: jax.Array, classifier: Classifier, data: Dataset) -> Classifier:
        if classifier.rejects:
            raise UserError(f"{self.registered[1]} does not go around a model that may give no answer; put it inside")
        return Classifier(Masked(classifier.net, self.stochastic or classifier.stochastic), (classifier.params, self))
