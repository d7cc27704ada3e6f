"""sigma_zero: descent on the classification loss and a smooth count of changed entries, small ones set to zero.

Reference: Cina et al., ICLR 2025, arXiv:2402.01879, algorithm 1.
Shapes: D input shape, C classes. Written for one example; ops/drive.py adds the batch.
Defaults are the paper's: 1,000 steps, step size 1 (Adam, along a cosine to a tenth), sigma 0.001, threshold 0.3 that
changes by 0.01 of the step size. One step is one forward and one backward pass. Entries are counted, not pixels.
Targeted as well, which the paper leaves open.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.attacks.evasion.ddn import annealed
from robustbench_jax.ops import gradients, losses, smallest
from robustbench_jax.ops.adam import Moments
from robustbench_jax.ops.smallest import Search
from robustbench_jax.registry import register
from robustbench_jax.types import EvasionAttack, Problem, record, require_positive


@record
class State(Search):
    d: jax.Array  # [D], the perturbation
    moments: Moments
    threshold: jax.Array  # smaller entries of d are set to zero


@register("attack", "sigma_zero", threat="evasion", access="gradients", paper="cina2025", budgets=("l0",))
@record
class SigmaZero(EvasionAttack):
    """step_size: Adam's first one. sigma: how sharply an entry counts. threshold: the first one, in pixel values.

    adjust: how much the threshold changes in a step, as a share of the step size.
    """

    steps: int = 1000
    step_size: float = 1.0
    sigma: float = 1e-3
    threshold: float = 0.3
    adjust: float = 0.01
    minimal = True

    def __post_init__(self):
        require_positive("sigma_zero", steps=self.steps, step_size=self.step_size, sigma=self.sigma)

    def init(self, key: jax.Array, problem: Problem) -> State:
        return State.at(
            problem.origin,
            best=jnp.full((), jnp.inf),
            d=jnp.zeros_like(problem.x),
            moments=Moments.zero(problem.x),
            threshold=jnp.asarray(self.threshold, jnp.float32),
        )

    def step(self, key: jax.Array, problem: Problem, state: State) -> State:
        x, d = problem.x, state.d
        z = jnp.clip(x + d, 0.0, 1.0)
        uphill, logits = gradients.ascent(problem, losses.margin, z)
        found, x_adv, best = smallest.meet(problem, state, jnp.where(d == 0, x, z), logits, uphill)
        reached = problem.objective(losses.margin, logits) >= 0
        sparse = 2 * self.sigma * d / (d**2 + self.sigma) ** 2 / d.size
        gradient = sparse - jnp.where(reached, 0.0, uphill)
        moments = state.moments.seen(gradient / jnp.maximum(jnp.max(jnp.abs(gradient)), 1e-12))
        now = self.step_size * annealed(jnp.maximum(state.t - 1, 0), self.steps, 0.1)
        after = self.step_size * annealed(state.t, self.steps, 0.1)
        d = jnp.clip(x + d - now * moments.direction, 0.0, 1.0) - x
        change = jnp.where(found, self.adjust, -self.adjust) * after
        threshold = jnp.clip(state.threshold + change, 0.0, 1.0)
        d = jnp.where(jnp.abs(d) < threshold, 0.0, d)
        return state.move(x_adv, gradient=uphill, best=best, d=d, moments=moments, threshold=threshold)
