"""FGSM: one step of the whole radius along the steepest direction of the ball.

Reference: Goodfellow et al., ICLR 2015, arXiv:1412.6572.
Shapes: D input shape. Written for one example; ops/drive.py adds the batch.
"""

import jax

from robustbench_jax.ops import gradients
from robustbench_jax.registry import entry, register
from robustbench_jax.types import EvasionAttack, Problem, State, record


@register("attack", "fgsm", threat="evasion", access="gradients", paper="goodfellow2015")
@record
class FGSM(EvasionAttack):
    """One gradient at the image, one move to the edge of the ball; any ball."""

    loss: str = "cross_entropy"
    steps = 1

    def __post_init__(self):
        entry("loss", self.loss)

    def init(self, key: jax.Array, problem: Problem) -> State:
        return State.at(problem.origin)

    def step(self, key: jax.Array, problem: Problem, state: State) -> State:
        gradient, logits = gradients.ascent(problem, entry("loss", self.loss).make, state.x_adv)
        x_adv = problem.budget.along(problem.x, state.x_adv, gradient, 1.0)
        return state.move(x_adv, done=problem.adversarial(logits), gradient=gradient)
