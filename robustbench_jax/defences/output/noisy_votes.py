"""noisy_votes(sigma): the class that most models vote for, in noise: an answer that has a guarantee of its own.

References: GNMax of Papernot et al., ICLR 2018, arXiv:1802.08908, at serving; the aggregate of models on disjoint data:
Nissim, Raskhodnikova & Smith, STOC 2007. Of the models of `partitioned` each has training images of its own, so that
one image more or less changes one vote, and two counts by one each. The label alone is answered. What so many answers
promise is `guarantee(queries, delta)`; each has noise of its own, the same question asked twice too. There is no such
promise for noise on an ordinary network's logits or labels (noisy_answers): nothing bounds what one image changes.
Shapes: C classes.
"""

import math

import jax
import jax.numpy as jnp

from robustbench_jax.defences.output.answer import FLOOR, Answer
from robustbench_jax.models.ensemble import Ensemble
from robustbench_jax.ops.accounting import Guarantee, gaussian_guarantee
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, UserError, record, require_positive


@register("model_defence", "noisy_votes", paper="papernot2018")
@record
class NoisyVotes(Answer):
    """sigma: of Gaussian noise on each class's count, in votes."""

    sigma: float = 20.0
    stochastic = True

    def __post_init__(self):
        require_positive("noisy_votes", sigma=self.sigma)

    def guarantee(self, queries: int, delta: float) -> Guarantee:
        """Of so many answers together, for training images that are added or removed."""
        terms = f"noise of {float(self.sigma):g} votes in {queries} answers"
        return gaussian_guarantee(float(self.sigma) / math.sqrt(2 * queries), delta, terms)

    def hide(self, key: jax.Array, x: jax.Array, logits: jax.Array) -> jax.Array:
        noisy = logits + self.sigma * jax.random.normal(key, logits.shape)
        return jnp.where(jnp.arange(len(logits)) == jnp.argmax(noisy), 0.0, math.log(FLOOR))

    def protect(self, key: jax.Array, classifier: Classifier, data: Dataset) -> Classifier:
        """Raises UserError for models that do not vote, or that share training images."""
        net = classifier.net
        if not isinstance(net, Ensemble) or net.spread > 1 or net.draws:
            raise UserError(
                "noisy_votes: nothing bounds what one training image changes of this model's answers; take an ensemble "
                "whose models have images of their own, e.g. trained by partitioned(50)"
            )
        return super().protect(key, classifier, data)
