"""HopSkipJump: the boundary's normal estimated from labels around a boundary point, a step along it, back by bisection.

Reference: Chen, Jordan & Wainwright, S&P 2020, arXiv:1904.02144, algorithm 2 and section III.
Shapes: D input shape, d its size. Written for one example; ops/drive.py adds the batch. One step is one query.
Defaults are the paper's: 100 sqrt(t) points for the t-th estimate, at most 10,000; bisection to d^(-3/2) of the way in
L2 and d^-2 in Linf; the estimate's radius d^-1 of the distance; the first one 0.1.
Departs from the paper: bisections end at 2^-18 of the way, where float32 ends; a step halved 20 times without success
is given up for a new estimate. Starts are those of label_search.py.
"""

import math

import jax
import jax.numpy as jnp

from robustbench_jax.attacks.evasion import label_search
from robustbench_jax.attacks.evasion.label_search import TINY, LabelAttack, Walk, length
from robustbench_jax.registry import register
from robustbench_jax.types import Problem, record, require_positive

START, BISECT, ESTIMATE, STEP = range(4)  # phases
FIRST_RADIUS = 0.1
HALVINGS = 20


@record
class State(Walk):
    z: jax.Array  # [D], the point of the boundary
    radius: jax.Array  # L2 length of the noise around it
    votes: jax.Array  # [D], sum of the noise, each with its answer's sign
    noise: jax.Array  # [D], sum of the noise
    ayes: jax.Array  # how many answers were adversarial
    round: jax.Array  # number of the estimate, from 1
    uphill: jax.Array  # [D], the direction of the step
    stride: jax.Array  # its length


@register(
    "attack",
    "hop_skip_jump",
    threat="evasion",
    access="labels",
    paper="chen2020",
    budgets=("linf", "l2"),
    given=("pool",),
)
@record
class HopSkipJump(LabelAttack):
    """samples: points of the first estimate; most: of any. Both norms have their own bisection, noise and step."""

    samples: int = 100
    most: int = 10000

    def __post_init__(self):
        super().__post_init__()
        require_positive("hop_skip_jump", samples=self.samples, most=self.most)

    def init(self, key: jax.Array, problem: Problem) -> State:
        x, zero, count = problem.x, jnp.zeros(()), jnp.zeros((), jnp.int32)
        own = {"votes": 0 * x, "noise": 0 * x, "uphill": 0 * x, "radius": zero, "stride": zero}
        return State.at(x, z=x, ayes=zero, round=count, **own, **self.start(problem))

    def step(self, key: jax.Array, problem: Problem, state: State) -> State:
        x, ball, phase = problem.x, problem.budget, state.phase
        around = jnp.clip(state.z + state.radius * _noise(key, problem), 0.0, 1.0)
        z = label_search.pick(
            phase,
            (
                self.candidate(key, problem, state),
                label_search.between(ball, x, state.far, label_search.middle(state)),
                around,
                jnp.clip(state.z + state.stride * state.uphill, 0.0, 1.0),
            ),
        )
        counts = (phase != ESTIMATE) & ((phase != BISECT) | label_search.clear(state))
        found, moved = label_search.ask(problem, state, z, counts)
        far = label_search.choose(found, label_search.bracket(moved, z, BISECT), moved)
        after = far, self._bisected(problem, moved, found), self._voted(problem, moved, z, found), _shorter(far, found)
        return label_search.pick(phase, after)

    def _bisected(self, problem: Problem, state: State, found: jax.Array) -> State:
        """After the middle was asked; at the end a new estimate begins at the adversarial end."""
        state = label_search.halved(state, found)
        x, ball, d = problem.x, problem.budget, problem.x.size
        z = label_search.between(ball, x, state.far, state.high)
        radius = jnp.where(state.round == 0, FIRST_RADIUS, ball.size(state.far - x) / d)
        zero = jnp.zeros_like(x)
        own = {"votes": zero, "noise": zero, "ayes": jnp.zeros(()), "round": state.round + 1}
        entered = label_search.entered(state, ESTIMATE, z=z, radius=radius, **own)
        tolerance = max(d ** (-2.0 if math.isinf(ball.p) else -1.5), 2.0**-18)
        return label_search.choose(state.high - state.low <= tolerance, entered, state)

    def _voted(self, problem: Problem, state: State, asked: jax.Array, found: jax.Array) -> State:
        """After a point of the estimate; at the end the step along it begins."""
        noise = (asked - state.z) / jnp.maximum(state.radius, TINY)
        votes, total = state.votes + jnp.where(found, noise, -noise), state.noise + noise
        state = state.replace(votes=votes, noise=total, ayes=state.ayes + found)
        count = jnp.minimum(jnp.floor(self.samples * jnp.sqrt(1.0 * state.round)), self.most)
        mean = 2 * state.ayes / count - 1
        normal = votes - jnp.where(jnp.abs(mean) < 1, mean, 0.0) * total
        uphill = jnp.sign(normal) if math.isinf(problem.budget.p) else normal / jnp.maximum(length(normal), TINY)
        stride = problem.budget.size(state.z - problem.x) / jnp.sqrt(1.0 * state.round)
        entered = label_search.entered(state, STEP, uphill=uphill, stride=stride)
        return label_search.choose(state.asked >= count, entered, state)


def _shorter(state: State, found: jax.Array) -> State:
    """After a step along the normal: one that failed is halved, and at last given up."""
    again = state.replace(stride=state.stride / 2)
    zero = jnp.zeros_like(state.votes)
    own = {"votes": zero, "noise": zero, "ayes": jnp.zeros(()), "round": state.round + 1}
    given_up = label_search.entered(state, ESTIMATE, **own)
    return label_search.choose(found, state, label_search.choose(state.asked >= HALVINGS, given_up, again))


def _noise(key: jax.Array, problem: Problem) -> jax.Array:
    """A random direction [D] of L2 length 1; in Linf uniform in the cube."""
    shape = problem.x.shape
    drawn = jax.random.normal(key, shape) if problem.budget.p == 2 else jax.random.uniform(key, shape, minval=-1)
    return drawn / jnp.maximum(length(drawn), TINY)
