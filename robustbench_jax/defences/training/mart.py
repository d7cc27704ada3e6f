"""mart(budget, beta): adversarial training that weighs images by how little the model is sure of them.

Reference: Wang et al., ICLR 2020, openreview rklOg6EFwS. With p and q the softmax at an image and at its adversarial
example, which PGD on the cross-entropy makes, the loss is
    -log q_y - log(1 - max_{k != y} q_k) + beta * (1 - p_y) * KL(p || q).
Departs from the paper: clean and adversarial images are one batch in batch norm; 1 - q_k is a sum of the others'
softmax, which does not vanish in float32, so that nothing is added to it; the ascent starts inside ball and box.
Shapes: B batch, D input shape, C classes.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.defences.training.adversarial import Adversarial, require_at_least_0
from robustbench_jax.defences.training.trades import NOISE
from robustbench_jax.ops.ascent import ascend, beside
from robustbench_jax.ops.losses import cross_entropy, kl
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, record


@register("training", "mart", paper="wang2020", parts={"budget": "budget"})
@record
class MART(Adversarial):
    """beta: the weight of the divergence; 6 in the authors' code."""

    beta: float = 6.0

    def __post_init__(self):
        super().__post_init__()
        require_at_least_0("mart", beta=self.beta)

    def perturb(self, key: jax.Array, model: Classifier, x: jax.Array, y: jax.Array, ids: jax.Array) -> jax.Array:
        """[2 B, D]: the adversarial examples, then the clean images."""
        start = beside(key, self.budget, x, ids, NOISE)
        return jnp.concatenate([ascend(cross_entropy, model, self.budget, x, start, y, self.steps, self.step_size), x])

    def objective(self, key, model, clean, x, logits, y, progress) -> jax.Array:
        attacked, plain = logits.reshape(2, len(y), -1)
        apart = (1 - own(plain, y)) * jax.vmap(kl)(attacked, plain)
        return self.loss(attacked, y) + jnp.mean(runner_up(attacked, y) + self.beta * apart)


def own(logits: jax.Array, y: jax.Array) -> jax.Array:
    """The probability [B] of y, from logits [B, C]."""
    return jnp.take_along_axis(jax.nn.softmax(logits), y[:, None], axis=-1)[:, 0]


def runner_up(logits: jax.Array, y: jax.Array) -> jax.Array:
    """-log(1 - the largest probability of a class that is not y) [B], from logits [B, C]."""
    classes = jnp.arange(logits.shape[-1])
    best = jnp.argmax(jnp.where(classes == y[:, None], -jnp.inf, logits), axis=-1)
    others = jnp.where(classes == best[:, None], -jnp.inf, logits)
    return jax.nn.logsumexp(logits, axis=-1) - jax.nn.logsumexp(others, axis=-1)
