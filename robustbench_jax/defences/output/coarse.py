"""rounded(decimals), top_k(k), label_only(): an answer says less.

Reference: Tramer et al., USENIX Security 2016, arXiv:1609.02943, section 7 (rounding, labels alone); top-k: Orekondy et
al., CVPR 2019, arXiv:1812.02766.
Shapes: C classes.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.defences.output.answer import Answer
from robustbench_jax.registry import register
from robustbench_jax.types import UserError, record, require_positive, static


@register("model_defence", "rounded", paper="tramer2016")
@record
class Rounded(Answer):
    """decimals: that probabilities have, from 0 to 6. Classes that are equal then are told apart no more: the first one
    is the prediction.
    """

    decimals: int = 2

    def __post_init__(self):
        if isinstance(self.decimals, int) and not 0 <= self.decimals <= 6:
            raise UserError(f"rounded: decimals = {self.decimals} must be from 0 to 6")

    def answer(self, key: jax.Array | None, x: jax.Array, said: jax.Array) -> jax.Array:
        unit = 10.0**self.decimals
        return jnp.round(said * unit) / unit


@register("model_defence", "top_k", paper="orekondy2019")
@record
class TopK(Answer):
    """k: classes whose probabilities are told; the others share evenly what these leave."""

    k: int = static(default=1)

    def __post_init__(self):
        require_positive("top_k", k=self.k)

    def answer(self, key: jax.Array | None, x: jax.Array, said: jax.Array) -> jax.Array:
        count = len(said)
        if self.k >= count:
            return said
        told = jnp.argsort(jnp.argsort(-said)) < self.k
        return jnp.where(told, said, jnp.sum(jnp.where(told, 0, said)) / (count - self.k))


@register("model_defence", "label_only", paper="tramer2016")
@record
class LabelOnly(Answer):
    """The predicted class, with certainty."""

    def answer(self, key: jax.Array | None, x: jax.Array, said: jax.Array) -> jax.Array:
        return jax.nn.one_hot(jnp.argmax(said), len(said))
