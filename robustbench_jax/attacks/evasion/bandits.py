"""Bandits-TD: a prior of the gradient, learnt online from finite differences and coarser than the image, is followed.

Reference: Ilyas, Engstrom & Madry, ICLR 2019, arXiv:1807.07978, with time and data priors.
Shapes: D = [H, W, C] input shape, [h, w, C] that of the prior. Written for one example; ops/drive.py adds the batch.
One step asks one antithetic pair, updates the prior and moves.
Departs from the paper: asked points are projected, and an adversarial one ends the attack; moves are fractions of the
radius; the loss is the margin, whose differences do not vanish where the model is sure; tiles are of a given number of
pixels, the last ones cut by the image; tile and prior_step are for small images (the authors' for ImageNet in Linf are
about 4.5 and 100).
"""

import math

import jax
import jax.numpy as jnp

from robustbench_jax.attacks.evasion.antithetic import ASKED, ask
from robustbench_jax.ops.sums import inner
from robustbench_jax.registry import entry, register
from robustbench_jax.types import EvasionAttack, Problem, UserError, record, require_positive, static
from robustbench_jax.types import State as BaseState

TINY = 1e-12


@record
class State(BaseState):
    learnt: jax.Array  # [h, w, C], the prior; in Linf the inverse hyperbolic tangent of it


@register("attack", "bandits", threat="evasion", access="scores", paper="ilyas2019", budgets=("linf", "l2"))
@record
class Bandits(EvasionAttack):
    """queries: forward evaluations of one run, two for each move of `step_size` (a fraction of the radius).

    tile: pixels along the side of the squares in which the prior is constant; 1 for no data prior. exploration: L2
    length of the random vector that a pair adds to the prior and takes from it. probe: L2 distance from the iterate of
    the asked points, in units of the box. prior_step: how fast the prior learns.
    """

    queries: int = 5000
    step_size: float = 0.2
    tile: int = static(default=2)
    exploration: float = 1.0
    probe: float = 0.1
    prior_step: float = 0.1
    loss: str = "margin"

    def __post_init__(self):
        require_positive("bandits", queries=self.queries, step_size=self.step_size, tile=self.tile)
        require_positive("bandits", exploration=self.exploration, probe=self.probe, prior_step=self.prior_step)
        entry("loss", self.loss)

    @property
    def steps(self) -> int:
        return self.queries

    def init(self, key: jax.Array, problem: Problem) -> State:
        shape = problem.x.shape
        if len(shape) != 3:
            raise UserError(f"bandits needs images [H, W, C]; got {list(shape)}")
        height, width = (-(-n // self.tile) for n in shape[:2])
        return State.at(problem.origin, learnt=jnp.zeros((height, width, shape[2])))

    def step(self, key: jax.Array, problem: Problem, state: State) -> State:
        prior = _prior(problem, state.learnt)
        noise = self.exploration * jax.random.normal(key, prior.shape) / math.sqrt(prior.size)
        first, second = (self._at(problem, state, prior + sign * noise) for sign in (1, -1))
        pair = ask(problem, entry("loss", self.loss).make, first, second)
        slope = pair.difference / (self.probe * self.exploration)
        learnt = state.learnt + self.prior_step * slope * noise
        direction = self._widen(_prior(problem, learnt), problem.x.shape)
        ascended = problem.budget.along(problem.x, state.x_adv, direction, self.step_size)
        moved = state.move(jnp.where(pair.found, pair.x_adv, ascended), forwards=ASKED, gradients=0, learnt=learnt)
        return moved.replace(done=pair.found)

    def _at(self, problem: Problem, state: State, direction: jax.Array) -> jax.Array:
        """The point [D] at distance `probe` from the iterate in a direction [h, w, C]."""
        direction = self._widen(direction, problem.x.shape)
        return state.x_adv + self.probe * direction / (jnp.sqrt(inner(direction, direction)) + TINY)

    def _widen(self, prior: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """[h, w, C] -> [H, W, C], each entry a tile."""
        rows = jnp.repeat(prior, self.tile, axis=0)[: shape[0]]
        return jnp.repeat(rows, self.tile, axis=1)[:, : shape[1]]


def _prior(problem: Problem, learnt: jax.Array) -> jax.Array:
    """The prior [h, w, C]; in Linf between -1 and 1, where adding to `learnt` is a step of exponentiated gradients."""
    return jnp.tanh(learnt) if math.isinf(problem.budget.p) else learnt
