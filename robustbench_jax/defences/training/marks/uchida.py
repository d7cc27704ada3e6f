"""uchida(bits): a message in the weights themselves, read by a secret matrix.

Reference: Uchida et al., ICMR 2017, arXiv:1701.04082: the weights of one layer, averaged over its outputs, are
projected by a matrix of standard normal entries; a regulariser makes the signs of the projections the bits of the
message. The statistic is one minus the bit error rate. Reading takes the suspect's weights, and a suspect of the same
architecture.
Shapes: T bits, M averaged weights.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.keys import stream
from robustbench_jax.ownership import MARK, Mark, Owner, Suspect
from robustbench_jax.registry import register
from robustbench_jax.training import TrainingDefence
from robustbench_jax.types import Classifier, Dataset, UserError, record, require_positive, static


class Message(NamedTuple):
    """layer: the name of the weights; matrix [T, M]; bits bool [T]."""

    layer: str
    matrix: np.ndarray
    bits: np.ndarray


@record
class Embedding(TrainingDefence):
    """Adds `strength` times the cross-entropy of the bits, summed."""

    matrix: jax.Array
    bits: jax.Array
    strength: float
    layer: str

    def objective(self, key, model, clean, x, logits, y, progress) -> jax.Array:
        projected = self.matrix @ averaged(model.params[self.layer])
        signs = jnp.where(self.bits, 1.0, -1.0)
        return self.loss(logits, y) + self.strength * jnp.sum(jax.nn.softplus(-signs * projected))


@register("training", "uchida", paper="uchida2017", access="weights", **MARK)
@record
class Uchida(Mark):
    """bits: of the message; strength: of the regulariser, as in the paper."""

    bits: int = static(default=64)
    strength: float = 0.01
    secret: int = 0

    def __post_init__(self):
        require_positive("uchida", bits=self.bits, strength=self.strength)

    def message(self, params: dict[str, jax.Array]) -> Message:
        layer = carrier(params)
        width = averaged(params[layer]).shape[0]
        matrix = jax.random.normal(stream(self.key, "matrix"), (self.bits, width))
        bits = jax.random.bernoulli(stream(self.key, "message"), 0.5, (self.bits,))
        return Message(layer, np.asarray(matrix), np.asarray(bits))

    def embedding(self, model: Classifier, data: Dataset) -> TrainingDefence:
        layer, matrix, bits = self.message(model.params)
        return Embedding(jnp.asarray(matrix), jnp.asarray(bits), self.strength, layer)

    def claim(self, owner: Owner) -> Message:
        return self.message(owner.model.params)

    def evidence(self, claim: Message, suspect: Suspect) -> np.ndarray:
        return read(claim, suspect.weights) == claim.bits

    def forged(self, key: jax.Array, model: Classifier, images: Dataset) -> Message:
        """A matrix of the forger's own, and for its message whatever it reads."""
        found = self.replace(secret=int(jax.random.bits(key) >> 1)).message(model.params)
        return found._replace(bits=read(found, model.params))


def carrier(params: dict[str, jax.Array]) -> str:
    """The name of the hidden layer's weights with most inputs, the largest average; the head's where there is none."""
    names = [name for name in sorted(params) if name.endswith("kernel")]
    hidden = [name for name in names if not name.startswith("head/")] or names
    if not hidden:
        raise UserError("uchida: the model has no weights by the name of kernel to carry a message")
    return max(hidden, key=lambda name: params[name][..., 0].size)


def averaged(kernel: jax.Array) -> jax.Array:
    """[M] of weights [..., outputs]."""
    return jnp.mean(kernel, axis=-1).reshape(-1)


def read(message: Message, params: dict[str, jax.Array]) -> np.ndarray:
    """bool [T]: the bits that the matrix finds. UserError for a model without that layer."""
    kernel = params.get(message.layer)
    if kernel is None or kernel[..., 0].size != message.matrix.shape[1]:
        raise UserError(f"uchida: the suspect has no weights '{message.layer}' of the owner's shape to read")
    return message.matrix @ np.asarray(averaged(kernel), np.float64) > 0
