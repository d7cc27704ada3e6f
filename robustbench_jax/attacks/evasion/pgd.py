"""PGD: projected gradient ascent on the loss inside a norm ball, from a random start.

Reference: Madry et al., ICLR 2018, arXiv:1706.06083; momentum as in Dong et al., CVPR 2018, arXiv:1710.06081.
Shapes: D input shape, C classes. Written for one example; ops/drive.py adds the batch.
Departs from the paper: an example whose iterate is adversarial stops there.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.ops import gradients
from robustbench_jax.ops.sums import total
from robustbench_jax.registry import entry, register
from robustbench_jax.types import EvasionAttack, Problem, record, require_positive
from robustbench_jax.types import State as BaseState


@record
class State(BaseState):
    velocity: jax.Array  # [D], the decaying sum of normalised gradients


@register("attack", "pgd", threat="evasion", access="gradients", paper="madry2018")
@record
class PGD(EvasionAttack):
    """`steps` moves of `step_size` (a fraction of the radius) along the steepest direction of the ball.

    step_size: 2.5 / steps where it is not given, as in the paper's figures for 100 steps.
    restarts: independent starts, tried until one succeeds. momentum: decay of the accumulated gradient, 0 for none.
    random_start: begin at a random point of the ball instead of at the image.
    """

    steps: int = 40
    step_size: float | None = None
    restarts: int = 1
    momentum: float = 0.0
    loss: str = "cross_entropy"
    random_start: bool = True

    def __post_init__(self):
        require_positive("pgd", steps=self.steps, step_size=self.step_size, restarts=self.restarts)
        entry("loss", self.loss)

    @property
    def items(self) -> int:
        return self.restarts

    @property
    def fraction(self) -> jax.Array | float:
        return 2.5 / self.steps if self.step_size is None else self.step_size

    def init(self, key: jax.Array, problem: Problem) -> State:
        start = problem.budget.sample(key, problem.x) if self.random_start else problem.origin
        return State.at(start, velocity=jnp.zeros_like(start))

    def step(self, key: jax.Array, problem: Problem, state: State) -> State:
        gradient, logits = gradients.ascent(problem, entry("loss", self.loss).make, state.x_adv)
        size = total(jnp.abs(gradient)) + 1e-30
        velocity = self.momentum * state.velocity + gradient / size
        x_adv = problem.budget.along(problem.x, state.x_adv, velocity, self.fraction)
        return state.move(x_adv, done=problem.adversarial(logits), gradient=gradient, velocity=velocity)
