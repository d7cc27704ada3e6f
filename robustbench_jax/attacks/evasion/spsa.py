"""SPSA: Adam on gradients estimated from scores at random corners around the iterate.

Reference: Uesato et al., ICML 2018, arXiv:1802.05666; the estimate, Spall, IEEE TAC 1992; Adam, Kingma & Ba, ICLR 2015,
arXiv:1412.6980.
Shapes: D input shape. Written for one example; ops/drive.py adds the batch. One step asks one antithetic pair.
Departs from the paper: sampled points are projected, and an adversarial one ends the attack; steps are fractions of the
radius (of the radius over sqrt(D) in L2); 32 points a gradient, where the paper spends up to 8,192.
"""

import math

import jax
import jax.numpy as jnp

from robustbench_jax.attacks.evasion.antithetic import ASKED, ask
from robustbench_jax.registry import entry, register
from robustbench_jax.types import EvasionAttack, Problem, UserError, record, require_positive
from robustbench_jax.types import State as BaseState

DECAYS = 0.9, 0.999  # of Adam's two moments
TINY = 1e-8


@record
class State(BaseState):
    estimate: jax.Array  # [D], sum over this gradient's pairs so far
    mean: jax.Array  # [D], Adam's first moment
    square: jax.Array  # [D], Adam's second moment


@register("attack", "spsa", threat="evasion", access="scores", paper="uesato2018", budgets=("linf", "l2"))
@record
class SPSA(EvasionAttack):
    """Adam's moves of about `step_size` (a fraction of the radius), each after `samples` evaluations, `queries` in all.

    samples: points of one estimate, an even number. delta: their distance in every entry, in units of the box.
    """

    queries: int = 5000
    samples: int = 32
    delta: float = 0.01
    step_size: float = 0.3
    loss: str = "margin"

    def __post_init__(self):
        require_positive("spsa", queries=self.queries, delta=self.delta, step_size=self.step_size)
        if isinstance(self.samples, int) and (self.samples < 2 or self.samples % 2):
            raise UserError(f"spsa: samples = {self.samples} must be even and at least 2: they come in pairs")
        entry("loss", self.loss)

    @property
    def steps(self) -> int:
        return self.queries

    def init(self, key: jax.Array, problem: Problem) -> State:
        zero = jnp.zeros_like(problem.origin)
        return State.at(problem.origin, estimate=zero, mean=zero, square=zero)

    def step(self, key: jax.Array, problem: Problem, state: State) -> State:
        signs = jax.random.rademacher(key, state.x_adv.shape, float)
        delta = self.delta * signs
        pair = ask(problem, entry("loss", self.loss).make, state.x_adv + delta, state.x_adv - delta)
        pairs = (self.samples + 1) // ASKED
        estimate = state.estimate + pair.difference / (2 * self.delta * pairs) * signs
        moved = state.move(state.x_adv, forwards=ASKED, gradients=0, estimate=estimate)
        updated = self._update(problem, moved, moved.t // pairs)
        complete = moved.t % pairs == 0
        moved = jax.tree.map(lambda new, old: jnp.where(complete, new, old), updated, moved)
        return moved.replace(x_adv=jnp.where(pair.found, pair.x_adv, moved.x_adv), done=pair.found)

    def _update(self, problem: Problem, state: State, number: jax.Array) -> State:
        """Adam's `number`-th move, counted from 1, projected; the next estimate starts from nothing."""
        first, second = DECAYS
        mean = first * state.mean + (1 - first) * state.estimate
        square = second * state.square + (1 - second) * state.estimate**2
        count = jnp.maximum(number, 1)
        direction = mean / (1 - first**count) / (jnp.sqrt(square / (1 - second**count)) + TINY)
        length = self.step_size * problem.budget.eps
        length = length if math.isinf(problem.budget.p) else length / math.sqrt(problem.x.size)
        x_adv = problem.budget.project(problem.x, state.x_adv + length * direction)
        return state.replace(x_adv=x_adv, mean=mean, square=square, estimate=jnp.zeros_like(mean))
