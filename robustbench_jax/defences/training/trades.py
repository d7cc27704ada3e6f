"""trades(budget, beta): the clean cross-entropy, and how far an image's prediction moves inside its ball.

Reference: Zhang et al., ICML 2019, arXiv:1901.08573. With p and q the softmax at an image and at its perturbed copy,
the loss is cross-entropy(p, y) + beta * KL(p || q); the copy is made by ascending that divergence, from a start beside
the image, where it is not yet flat.
Departs from the paper: clean and perturbed images are one batch in batch norm; the ascent starts inside ball and box.
Shapes: B batch, D input shape, C classes.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.defences.training.adversarial import Adversarial, require_at_least_0
from robustbench_jax.ops.ascent import ascend, beside, logits_of
from robustbench_jax.ops.balls import Ball
from robustbench_jax.ops.losses import kl
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, record

NOISE = 0.001  # the standard deviation of the start


@register("training", "trades", paper="zhang2019", parts={"budget": "budget"})
@record
class TRADES(Adversarial):
    """beta: the weight of the divergence, 1 / lambda in the paper; 6 there for CIFAR-10, 1 for more accuracy."""

    beta: float = 6.0

    def __post_init__(self):
        super().__post_init__()
        require_at_least_0("trades", beta=self.beta)

    def perturb(self, key: jax.Array, model: Classifier, x: jax.Array, y: jax.Array, ids: jax.Array) -> jax.Array:
        """[2 B, D]: the perturbed images, then the clean ones."""
        moved = furthest(key, model, self.budget, x, ids, self.steps, self.step_size)
        return jnp.concatenate([moved, x])

    def objective(self, key, model, clean, x, logits, y, progress) -> jax.Array:
        moved, plain = logits.reshape(2, len(y), -1)
        return self.loss(plain, y) + self.beta * divergence(plain, moved)


def furthest(
    key: jax.Array, model: Classifier, ball: Ball, x: jax.Array, ids: jax.Array, steps: int, step_size: float
) -> jax.Array:
    """x_adv [B, D], where the model says other things than at x [B, D]; no labels are asked for."""
    return ascend(kl, model, ball, x, beside(key, ball, x, ids, NOISE), logits_of(model, x), steps, step_size)


def divergence(plain: jax.Array, moved: jax.Array) -> jax.Array:
    """The mean KL(softmax(plain) || softmax(moved)) of logits [B, C]."""
    return jnp.mean(jax.vmap(kl)(moved, plain))
