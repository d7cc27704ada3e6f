"""msd(budgets): adversarial training against the union of several balls, by one ascent that may change its ball.

Reference: Maini et al., ICML 2020, arXiv:1909.04068 (multi steepest descent). Each step is tried along the steepest
direction of every ball and projected onto it; the one of the highest cross-entropy is taken.
Departs from the paper: steps of L1 share the movement among the largest 1% of entries; the ascent sees the model in
inference mode.
"""

import jax

from robustbench_jax.defences.training.adversarial import require_ball
from robustbench_jax.defences.training.several_budgets import InSeveral
from robustbench_jax.ops.ascent import ascend_any
from robustbench_jax.ops.losses import cross_entropy
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, record, require_positive


@register("training", "msd", paper="maini2020", parts={"budgets": "budget"})
@record
class MSD(InSeveral):
    """budgets: balls. steps: 50 in the paper for CIFAR-10; step_size: of each, as a fraction of the radius."""

    steps: int = 50
    step_size: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        require_positive("msd", steps=self.steps, step_size=self.step_size)
        for budget in self.budgets:
            require_ball("msd", budget)

    def perturb(self, key: jax.Array, model: Classifier, x: jax.Array, y: jax.Array, ids: jax.Array) -> jax.Array:
        return ascend_any(cross_entropy, model, self.budgets, x, x, y, self.steps, self.step_size)
