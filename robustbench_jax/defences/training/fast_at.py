"""fast_at(budget): adversarial training with one step from a random point of the ball; optionally with GradAlign.

References: Wong et al., ICLR 2020, arXiv:2001.03994; GradAlign: Andriushchenko & Flammarion, NeurIPS 2020,
arXiv:2007.02617. One step is enough as long as the loss is nearly linear in the ball. Where it ceases to be, training
overfits to that step, from one epoch to the next, and robust accuracy under PGD falls to nothing: the accuracy on the
training batches does not tell, what is `watched` does. GradAlign adds
    align * (1 - cos(gradient of the loss at the image, that at a random point of the ball)),
the first of them held fixed, as in the authors' code.
Departs from the papers: the step and both gradients see the model in inference mode.
Shapes: B batch, D input shape.
"""

from typing import Any

import jax
import jax.numpy as jnp

from robustbench_jax.defences.training.adversarial import require_at_least_0, require_ball, watching
from robustbench_jax.ops.ascent import ascend, ascent, inside
from robustbench_jax.ops.balls import Ball
from robustbench_jax.ops.losses import cross_entropy
from robustbench_jax.registry import register
from robustbench_jax.training import TrainingDefence
from robustbench_jax.types import Classifier, record, require_positive, static


@register("training", "fast_at", paper="wong2020", parts={"budget": "budget"})
@record
class FastAT(TrainingDefence):
    """step: the step's size as a fraction of the radius. align: the weight of GradAlign, 0.2 in its paper for CIFAR-10
    at 8/255; it takes derivatives of input gradients.
    """

    budget: Any = "linf(8/255)"
    step: float = 1.25
    align: float = static(default=0.0)

    def __post_init__(self):
        require_ball("fast_at", self.budget)
        require_positive("fast_at", step=self.step)
        require_at_least_0("fast_at", align=self.align)

    @property
    def watched(self) -> tuple[Any, Any]:
        return watching(self.budget)

    def perturb(self, key: jax.Array, model: Classifier, x: jax.Array, y: jax.Array, ids: jax.Array) -> jax.Array:
        start = inside(key, self.budget, x, ids)
        return ascend(cross_entropy, model, self.budget, x, start, y, 1, self.step)

    def objective(self, key, model, clean, x, logits, y, progress) -> jax.Array:
        loss = self.loss(logits, y)
        return loss + self.align * misalignment(key, model, self.budget, clean, y) if self.align else loss


def misalignment(key: jax.Array, model: Classifier, ball: Ball, x: jax.Array, y: jax.Array) -> jax.Array:
    """1 - the mean cosine between input gradients at x [B, D] and at random points of the balls around them."""
    moved = inside(key, ball, x, jnp.arange(len(x)))
    here = jax.lax.stop_gradient(ascent(cross_entropy, model, x, y))
    there = ascent(cross_entropy, model, moved, y)
    return 1 - jnp.mean(jax.vmap(lambda a, b: jnp.sum(unit(a) * unit(b)))(here, there))


def unit(g: jax.Array) -> jax.Array:
    """g [D] of norm 1, or 0 where it is 0; divided by its largest entry first, so that small ones do not vanish."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(g)))
    scaled = g / jnp.where(largest > 0, largest, 1.0)
    return scaled * jax.lax.rsqrt(jnp.maximum(jnp.sum(scaled**2), 0.5))  # at least 1 where g is not 0
