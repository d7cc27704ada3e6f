"""mad(distance): answers that turn the gradient of whoever trains on them as far away as they can.

Reference: prediction poisoning, Orekondy et al., ICLR 2020, arXiv:1906.10908 (MAD, and MAD-argmax with keep_label).
A surrogate with fresh weights stands for the unknown clone. A training step on the answer y moves it along G^T y, where
row c of G is the gradient of its log-probability of class c. The class is taken whose direction makes the largest angle
with that of the honest answer, and as much of it is mixed in as the distance allows.
Departs from the paper: the surrogate is a network of one hidden layer, of which G G^T [C, C] has a closed form, so that
no gradient is ever made.
Shapes: C classes, D input shape, H = 64 hidden units.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.defences.output.answer import Answer
from robustbench_jax.keys import stream
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, UserError, record

HIDDEN = 64


@register("model_defence", "mad", paper="orekondy2020", given=("surrogate",))
@record
class MAD(Answer):
    """distance: the L1 distance of the answer to the honest one, above 0 and at most 2. keep_label: the prediction
    stays, which limits how much is mixed in.
    """

    distance: float = 1.0
    keep_label: bool = True
    surrogate: Any = None

    def __post_init__(self):
        if isinstance(self.distance, int | float) and not 0 < self.distance <= 2:
            raise UserError(f"mad: distance = {self.distance} must be above 0 and at most 2")

    def protect(self, key: jax.Array, classifier: Classifier, data: Dataset) -> Classifier:
        shape = jax.ShapeDtypeStruct(data.x.shape[1:], jnp.float32)
        classes = jax.eval_shape(classifier.keyed(key), shape).shape[0]
        made = surrogate(stream(key, "surrogate"), int(np.prod(shape.shape)), classes)
        return Answer.protect(self.replace(surrogate=made), key, classifier, data)

    def answer(self, key: jax.Array | None, x: jax.Array, said: jax.Array) -> jax.Array:
        turned = products(self.surrogate, x.reshape(-1) - 0.5)
        own = turned @ said
        lengths = jnp.sqrt(jnp.maximum(jnp.diagonal(turned) * (said @ own), 1e-20))
        worst = jax.nn.one_hot(jnp.argmin(own / lengths), len(said))
        share = jnp.minimum(self.distance / jnp.maximum(jnp.sum(jnp.abs(worst - said)), 1e-9), 1)
        if self.keep_label:
            top, rival = jnp.max(said), said @ worst
            share = jnp.minimum(share, 0.999 * (top - rival) / (1 + top - rival))
        return said + share * (worst - said)


def surrogate(key: jax.Array, size: int, classes: int) -> tuple[jax.Array, jax.Array]:
    """Fresh weights [D, H] and [H, C]."""
    first, second = jax.random.split(key)
    return (
        jax.random.normal(first, (size, HIDDEN)) * jnp.sqrt(2 / size),
        jax.random.normal(second, (HIDDEN, classes)) * jnp.sqrt(1 / HIDDEN),
    )


def products(weights: tuple[jax.Array, jax.Array], x: jax.Array) -> jax.Array:
    """[C, C]: inner products of the gradients of log-probabilities at x [D], over both layers and their biases."""
    inner, outer = weights
    before = x @ inner
    hidden = jax.nn.relu(before)
    said = jax.nn.softmax(hidden @ outer)
    of_logits = jnp.eye(len(said)) - said
    of_hidden = (of_logits @ outer.T) * (before > 0)
    return of_logits @ of_logits.T * (hidden @ hidden + 1) + of_hidden @ of_hidden.T * (x @ x + 1)
