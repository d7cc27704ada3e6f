"""adversarial_patch: one patch for all images and places, learnt on a pool of others.

Reference: Brown et al., 2017, arXiv:1712.09665 (expectation over places and scales).
Shapes: h, w, C the patch, N images of the pool. Written for one example; ops/pool.py learns.
Departs from the paper: signed gradient steps that shrink to nothing; no rotations. What learning costs is not counted;
an attacked image costs one forward evaluation for each place.
"""

from typing import Any

import jax
import jax.numpy as jnp

from robustbench_jax.ops import gradients, losses
from robustbench_jax.ops.patches import join
from robustbench_jax.ops.pool import ascend, grey
from robustbench_jax.registry import register
from robustbench_jax.types import EvasionAttack, Problem, State, UserError, record, require_positive


@register(
    "attack",
    "adversarial_patch",
    threat="evasion",
    access="gradients",
    paper="brown2017",
    budgets=("patch",),
    given=("learnt",),
)
@record
class AdversarialPatch(EvasionAttack):
    """updates: gradient steps, each on `batch` images of the pool with the patch at a random place and scale of each.

    places: random places where it is tried on an attacked image, until one succeeds. towards: the class that it is to
    be taken for, -1 for any wrong one (success is any wrong one in either case).
    """

    updates: int = 300
    batch: int = 64
    step_size: float = 0.1
    places: int = 1
    towards: int = -1
    learnt: Any = None
    steps = 1
    prepares = True

    def __post_init__(self):
        require_positive(
            "adversarial_patch",
            updates=self.updates,
            batch=self.batch,
            step_size=self.step_size,
            places=self.places,
        )

    @property
    def items(self) -> int:
        return self.places

    def prepare(self, key: jax.Array, model: Any, budget: Any, x: Any, y: Any, runtime: Any) -> "AdversarialPatch":
        """The attack with the patch that it learnt on the pool x [N, D], y [N]. The key is consumed."""
        start = budget.sample(jax.random.fold_in(key, 0), grey(x.shape[1:]))
        settings = {"updates": self.updates, "batch": self.batch, "step_size": self.step_size}
        return self.replace(learnt=ascend(key, self, model, budget, x, y, start, **settings))

    def learn(self, key: jax.Array, problem: Problem, point: jax.Array) -> jax.Array:
        """The gradient at one image of the pool with the patch at a random place, in the shape of the point."""

        def loss(logits, y):
            aimed = -losses.cross_entropy(logits, jnp.maximum(jnp.asarray(self.towards, jnp.int32), 0))
            return jnp.where(jnp.asarray(self.towards) < 0, losses.cross_entropy(logits, y), aimed)

        return gradients.ascent(problem, loss, self._placed(key, problem, point))[0]

    def init(self, key: jax.Array, problem: Problem) -> State:
        if self.learnt is None:
            raise UserError("adversarial_patch: the attack has learnt nothing before prepare(...)")
        return State.at(self._placed(key, problem, self.learnt))

    def step(self, key: jax.Array, problem: Problem, state: State) -> State:
        done = problem.adversarial(problem.logits(state.x_adv))
        return state.move(state.x_adv, done=done, gradients=0)

    def _placed(self, key: jax.Array, problem: Problem, point: jax.Array) -> jax.Array:
        pixels, _ = problem.budget.split(problem.x, point)
        return join(pixels, jax.random.uniform(key, (3,)))
