"""free_at(replays, budget): the backward pass that updates the weights moves the perturbation too.

Reference: Shafahi et al., NeurIPS 2019, arXiv:1904.12843. Each batch is used for `replays` steps in a row; the
perturbation goes on from step to step, and from each batch to the next one's images. Steps are those of the recipe: the
cost is that of standard training for as many epochs, of which each `replays` see the images once.
Departs from the paper: the perturbation is projected onto ball and box of the image that it meets.
Shapes: B batch, D input shape.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from robustbench_jax.defences.training.adversarial import require_ball, watching
from robustbench_jax.ops.ascent import along
from robustbench_jax.registry import register
from robustbench_jax.training import TrainingDefence
from robustbench_jax.types import record, require_positive, static


@register("training", "free_at", paper="shafahi2019", parts={"budget": "budget"})
@record
class FreeAT(TrainingDefence):
    """step: the size of the perturbation's move as a fraction of the radius, 1 in the paper, whose replays are 8."""

    replays: int = static(default=8)
    budget: Any = "linf(8/255)"
    step: float = 1.0

    def __post_init__(self):
        require_ball("free_at", self.budget)
        require_positive("free_at", replays=self.replays, step=self.step)

    @property
    def watched(self) -> tuple[Any, Any]:
        return watching(self.budget)

    def remember(self, x: jax.Array) -> jax.Array:
        """The perturbation [B, D]."""
        return jnp.zeros(x.shape, jnp.float32)

    def combine(
        self, key: jax.Array, objective: Callable, weights: Any, batch: tuple, memory: jax.Array
    ) -> tuple[Any, Any, jax.Array]:
        clean, x, y = batch

        def attacked(weights, x_adv):
            return objective(weights, (clean, x_adv, y))

        x_adv = jax.vmap(self.budget.project)(x, x + memory)
        (gradients, upwards), aux = jax.grad(attacked, argnums=(0, 1), has_aux=True)(weights, x_adv)
        return gradients, aux, along(self.budget, x, x_adv, upwards, self.step) - x
