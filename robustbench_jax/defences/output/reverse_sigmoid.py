"""reverse_sigmoid(beta, gamma): each probability is moved by an amount that several originals could have had.

Reference: Lee et al., IEEE S&P Workshops 2019, arXiv:1806.00054: y' = a (y - beta (sigmoid(gamma * logit(y)) - 1/2)),
with a such that the answer sums to 1. The prediction stays as long as the map is increasing where it matters.
Shapes: C classes.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.defences.output.answer import FLOOR, Answer
from robustbench_jax.registry import register
from robustbench_jax.types import record, require_positive


@register("model_defence", "reverse_sigmoid", paper="lee2019")
@record
class ReverseSigmoid(Answer):
    """beta: how far answers move; gamma: how soon. The paper's are 0.2 to 1 and 0.2 to 0.8."""

    beta: float = 1.0
    gamma: float = 0.2

    def __post_init__(self):
        require_positive("reverse_sigmoid", beta=self.beta, gamma=self.gamma)

    def answer(self, key: jax.Array | None, x: jax.Array, said: jax.Array) -> jax.Array:
        inside = jnp.clip(said, FLOOR, 1 - 1e-6)
        moved = self.beta * (jax.nn.sigmoid(self.gamma * (jnp.log(inside) - jnp.log1p(-inside))) - 0.5)
        return jnp.maximum(said - moved, 0)
