"""NES: projected gradient ascent with gradients estimated from scores at Gaussian points around the iterate.

Reference: Ilyas et al., ICML 2018, arXiv:1804.08598, the query-limited attack; search gradients, Wierstra et al.,
JMLR 2014.
Shapes: D input shape. Written for one example; ops/drive.py adds the batch. One step asks one antithetic pair.
Departs from the paper: sampled points are projected, and an adversarial one ends the attack; steps are fractions of the
radius; the step size stays as it is, where the authors' code halves it when the loss stops falling.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.attacks.evasion.antithetic import ASKED, ask
from robustbench_jax.ops.sums import total
from robustbench_jax.registry import entry, register
from robustbench_jax.types import EvasionAttack, Problem, UserError, record, require_positive
from robustbench_jax.types import State as BaseState


@record
class State(BaseState):
    estimate: jax.Array  # [D], sum over this gradient's pairs so far
    velocity: jax.Array  # [D], the decaying sum of normalised estimates


@register("attack", "nes", threat="evasion", access="scores", paper="ilyas2018", budgets=("linf", "l2"))
@record
class NES(EvasionAttack):
    """Moves of `step_size` (a fraction of the radius), each after `samples` forward evaluations, `queries` in all.

    samples: points of one estimate, an even number. sigma: their standard deviation, in units of the box.
    momentum: decay of the accumulated estimates, 0 for none.
    """

    queries: int = 5000
    samples: int = 50
    sigma: float = 0.001
    step_size: float = 0.2
    momentum: float = 0.9
    loss: str = "cross_entropy"

    def __post_init__(self):
        require_positive("nes", queries=self.queries, sigma=self.sigma, step_size=self.step_size)
        if isinstance(self.samples, int) and (self.samples < 2 or self.samples % 2):
            raise UserError(f"nes: samples = {self.samples} must be even and at least 2: they come in pairs")
        if isinstance(self.momentum, float) and not 0 <= self.momentum < 1:
            raise UserError(f"nes: momentum = {self.momentum} must be at least 0 and less than 1")
        entry("loss", self.loss)

    @property
    def steps(self) -> int:
        return self.queries

    def init(self, key: jax.Array, problem: Problem) -> State:
        zero = jnp.zeros_like(problem.origin)
        return State.at(problem.origin, estimate=zero, velocity=zero)

    def step(self, key: jax.Array, problem: Problem, state: State) -> State:
        noise = jax.random.normal(key, state.x_adv.shape)
        delta = self.sigma * noise
        pair = ask(problem, entry("loss", self.loss).make, state.x_adv + delta, state.x_adv - delta)
        estimate = state.estimate + pair.difference * noise
        complete = (state.t + 1) % ((self.samples + 1) // ASKED) == 0
        new = self.momentum * state.velocity + estimate / (total(jnp.abs(estimate)) + 1e-30)
        velocity = jnp.where(complete, new, state.velocity)
        ascended = problem.budget.along(problem.x, state.x_adv, velocity, self.step_size)
        x_adv = jnp.where(pair.found, pair.x_adv, jnp.where(complete, ascended, state.x_adv))
        estimate = jnp.where(complete, 0.0, estimate)
        moved = state.move(x_adv, forwards=ASKED, gradients=0, estimate=estimate, velocity=velocity)
        return moved.replace(done=pair.found)
