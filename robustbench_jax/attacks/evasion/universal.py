"""universal: one perturbation for all images, learnt on a pool of others.

References: Moosavi-Dezfooli et al., CVPR 2017, arXiv:1610.08401; learnt by gradient steps on a clipped loss as in
Shafahi et al., AAAI 2020, arXiv:1811.11304.
Shapes: D input shape, N images of the pool. Written for one example; ops/pool.py learns.
Departs from the paper: steps are the ball's steepest ones and shrink to nothing. What learning costs is not counted;
an attacked image costs one forward evaluation.
"""

from typing import Any

import jax
import jax.numpy as jnp

from robustbench_jax.ops import gradients, losses
from robustbench_jax.ops.pool import ascend, grey
from robustbench_jax.registry import register
from robustbench_jax.types import EvasionAttack, Problem, State, UserError, record, require_positive

BUDGETS = ("linf", "l2", "l1", "l0", "rotation_translation", "flow", "recolour")


@register(
    "attack", "universal", threat="evasion", access="gradients", paper="moosavi2017", budgets=BUDGETS, given=("learnt",)
)
@record
class Universal(EvasionAttack):
    """updates: gradient steps, each on `batch` images of the pool. step_size: of the first, a fraction of the radius.

    clip: of the loss of one image, so that those that are long lost do not lead.
    """

    updates: int = 200
    batch: int = 64
    step_size: float = 0.2
    clip: float = 9.0
    learnt: Any = None
    steps = 1
    prepares = True

    def __post_init__(self):
        require_positive("universal", updates=self.updates, batch=self.batch, step_size=self.step_size, clip=self.clip)

    def prepare(self, key: jax.Array, model: Any, budget: Any, x: Any, y: Any, runtime: Any) -> "Universal":
        """The attack with what it learnt on the pool x [N, D], y [N]. The key is consumed."""
        start = budget.identity(grey(x.shape[1:]))
        settings = {"updates": self.updates, "batch": self.batch, "step_size": self.step_size}
        return self.replace(learnt=ascend(key, self, model, budget, x, y, start, **settings))

    def learn(self, key: jax.Array, problem: Problem, point: jax.Array) -> jax.Array:
        """The gradient at one image of the pool, in the shape of the point."""

        def clipped(logits, y):
            return jnp.minimum(losses.cross_entropy(logits, y), self.clip)

        return gradients.ascent(problem, clipped, self._at(problem, point))[0]

    def init(self, key: jax.Array, problem: Problem) -> State:
        if self.learnt is None:
            raise UserError("universal: the attack has learnt nothing before prepare(...)")
        return State.at(problem.budget.project(problem.x, self._at(problem, self.learnt)))

    def step(self, key: jax.Array, problem: Problem, state: State) -> State:
        done = problem.adversarial(problem.logits(state.x_adv))
        return state.move(state.x_adv, done=done, gradients=0)

    def _at(self, problem: Problem, point: jax.Array) -> jax.Array:
        """This image's point: as far from its origin as `point` is from the grey image's."""
        return problem.origin + (point - problem.budget.identity(grey(problem.x.shape)))
