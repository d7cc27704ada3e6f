"""fmn: gradient steps in a ball around the image, which shrinks after a success and grows after a failure.

Reference: Pintor, Roli, Brendel & Biggio, NeurIPS 2021, arXiv:2102.12827 (fast minimum-norm attacks), algorithm 1.
Shapes: D input shape, C classes. Written for one example; ops/drive.py adds the batch.
Defaults: 1,000 steps, step size from 1 to 0.01 (in L2, whatever the budget's norm), gamma from 0.05 to 0.001, both
along a cosine, as in the paper's experiments. One step is one forward and one backward pass. In L0 entries are counted,
not pixels.
Departs from the paper: in L1 and L0 projections are onto ball and box together, in L2 onto the sphere, as in adv-lib
(optimality 0.61 against 0.59 with the ball, on fashion_mnist/linf/pgd_at); before the first success the radius grows by
gamma at least (with the distance to the linearised boundary alone it may stay just below it for ever, on a linear model
by rounding, in L2 where the box cuts steps short); no start from an image of another class.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.attacks.evasion.ddn import annealed
from robustbench_jax.ops import gradients, losses, smallest
from robustbench_jax.ops.smallest import Search
from robustbench_jax.ops.sums import inner, total
from robustbench_jax.registry import register
from robustbench_jax.types import EvasionAttack, Problem, record, require_positive

TINY = 1e-12


@record
class State(Search):
    z: jax.Array  # [D], the iterate
    radius: jax.Array  # of the ball that it lies in


@register("attack", "fmn", threat="evasion", access="gradients", paper="pintor2021")
@record
class FMN(EvasionAttack):
    """step_size: of the first step, in L2; the last is a hundredth of it.

    gamma, gamma_last: share by which the radius changes in the first and in the last step (by at least 1 in L0).
    """

    steps: int = 1000
    step_size: float = 1.0
    gamma: float = 0.05
    gamma_last: float = 0.001
    minimal = True

    def __post_init__(self):
        require_positive("fmn", steps=self.steps, step_size=self.step_size, gamma=self.gamma, last=self.gamma_last)

    def init(self, key: jax.Array, problem: Problem) -> State:
        radius = jnp.full((), 1.0 if problem.budget.p == 0 else jnp.inf)
        return State.at(problem.origin, best=jnp.full((), jnp.inf), z=problem.origin, radius=radius)

    def step(self, key: jax.Array, problem: Problem, state: State) -> State:
        gradient, logits = gradients.ascent(problem, losses.margin, state.z)
        found, x_adv, best = smallest.meet(problem, state, state.z, logits, gradient)
        gamma = self.gamma * annealed(state.t, self.steps, self.gamma_last / self.gamma)
        radius = _radius(problem, state, gamma, found, best, gradient, logits)
        uphill = gradient / jnp.maximum(jnp.sqrt(inner(gradient, gradient)), TINY)
        z = state.z + self.step_size * annealed(state.t, self.steps, 0.01) * uphill
        return state.move(x_adv, gradient=gradient, best=best, z=_project(problem, z, radius), radius=radius)


def _radius(problem: Problem, state: State, gamma, found, best, gradient, logits) -> jax.Array:
    """Before the first success at least to the linearised boundary, afterwards smaller or larger by gamma."""
    ball, r = problem.budget, state.radius
    if ball.p == 0:
        less = jnp.minimum(jnp.minimum(r - 1, jnp.floor(r * (1 - gamma))), best)
        more = jnp.maximum(r + 1, jnp.floor(r * (1 + gamma)))
        return jnp.clip(jnp.where(found, less, more), 0, problem.x.size)
    lead = jnp.abs(problem.objective(losses.margin, logits))
    boundary = ball.size(state.z - problem.x) + lead / jnp.maximum(_dual(ball.p, gradient), TINY)
    first = jnp.where(jnp.isfinite(r), jnp.maximum(boundary, r * (1 + gamma)), boundary)
    r = jnp.where(found, jnp.minimum(r * (1 - gamma), best), jnp.where(best < jnp.inf, r * (1 + gamma), first))
    return jnp.minimum(r, ball.size(jnp.maximum(problem.x, 1 - problem.x)))


def _project(problem: Problem, z: jax.Array, radius: jax.Array) -> jax.Array:
    """Onto the ball, then into the box; in L2 onto the sphere; in L1 and L0 onto ball and box together."""
    if problem.budget.p == 2:
        d = z - problem.x
        return jnp.clip(problem.x + d * radius / jnp.maximum(jnp.sqrt(inner(d, d)), TINY), 0.0, 1.0)
    return problem.budget.replace(eps=radius).project(problem.x, z)


def _dual(p: float, g: jax.Array) -> jax.Array:
    if p == 2:
        return jnp.sqrt(inner(g, g))
    return jnp.max(jnp.abs(g)) if p == 1 else total(jnp.abs(g))
