"""Uniform noise: random points of the ball. The control: an attack that is no better than this finds nothing.

Reference: the noise baseline of Fawzi et al., NeurIPS 2016, arXiv:1608.08967.
Shapes: D input shape. Written for one example; ops/drive.py adds the batch.
"""

import jax

from robustbench_jax.registry import register
from robustbench_jax.types import EvasionAttack, Problem, State, record, require_positive


@register("attack", "uniform_noise", threat="evasion", access="labels", paper="fawzi2016")
@record
class UniformNoise(EvasionAttack):
    """`steps` random points, until one is adversarial; it asks for one label each."""

    steps: int = 1

    def __post_init__(self):
        require_positive("uniform_noise", steps=self.steps)

    def init(self, key: jax.Array, problem: Problem) -> State:
        return State.at(problem.budget.sample(key, problem.x))

    def step(self, key: jax.Array, problem: Problem, state: State) -> State:
        done = problem.adversarial(problem.logits(state.x_adv))
        last = state.t + 1 >= self.steps
        x_adv = jax.numpy.where(last, state.x_adv, problem.budget.sample(key, problem.x))
        return state.move(x_adv, done=done, gradients=0)
