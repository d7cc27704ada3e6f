"""Sign-OPT: the distance to the boundary along a direction, minimised over directions by signs of its derivatives.

Reference: Cheng et al., ICLR 2020, arXiv:1909.10773, algorithm 1; start and line search of the authors' program.
Shapes: D input shape. Written for one example; ops/drive.py adds the batch. One step is one query.
Defaults are theirs: the best of 100 random directions, 200 signs an estimate, each for a move of 0.001, steps of 0.2
at first, which double while the distance falls or else are quartered.
Departs from their program: a direction that is not adversarial at the present distance costs that one query and no
search of its own distance; the next line search begins at the last step that helped; directions begin towards images
of the pool as well as towards noise.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.attacks.evasion import label_search
from robustbench_jax.attacks.evasion.label_search import TINY, LabelAttack, Walk, length
from robustbench_jax.registry import register
from robustbench_jax.types import Problem, record, require_positive

START, DOWN, BISECT, ESTIMATE, LINE = range(5)  # phases
SHORTER = 0.99  # how a search of the distance goes down from the last one
TOLERANCE = 2e-6  # of the distance
LEAST = 1e-4  # step under which the direction is estimated anew, with smaller moves
SMALLEST = 1e-5  # such a move


@record
class State(Walk):
    direction: jax.Array  # [D] of L2 length 1, where the line search begins; `far` is the one that is asked
    nearest: jax.Array  # [D], the best direction
    distance: jax.Array  # along it, infinite before there is one
    before: jax.Array  # along `direction`
    votes: jax.Array  # [D], sum of the moves, each with its sign: the way down
    tries: jax.Array  # directions of the start that were asked
    stride: jax.Array  # of the line search
    shrinking: jax.Array  # bool: longer steps have failed
    nudge: jax.Array  # length of the moves of an estimate


@register("attack", "sign_opt", threat="evasion", access="labels", paper="cheng2020", budgets=("l2",), given=("pool",))
@record
class SignOPT(LabelAttack):
    """directions: tried at the start. samples: signs of one estimate. step_size: of the first line search."""

    directions: int = 100
    samples: int = 200
    step_size: float = 0.2

    def __post_init__(self):
        super().__post_init__()
        require_positive("sign_opt", directions=self.directions, samples=self.samples, step_size=self.step_size)

    def init(self, key: jax.Array, problem: Problem) -> State:
        zero, none = jnp.zeros_like(problem.x), jnp.zeros((), jnp.int32)
        own = {"direction": zero, "nearest": zero, "votes": zero, "tries": none, "shrinking": jnp.zeros((), bool)}
        numbers = {"distance": jnp.inf, "before": jnp.inf, "stride": self.step_size, "nudge": 1e-3}
        own |= {name: jnp.asarray(value, jnp.float32) for name, value in numbers.items()}
        return State.at(problem.x, **own, **self.start(problem))

    def step(self, key: jax.Array, problem: Problem, state: State) -> State:
        x, phase = problem.x, state.phase
        first = self.candidate(key, problem, state.replace(asked=state.tries)) - x
        noise = _unit(jax.random.normal(key, x.shape))
        line = _unit(state.direction + state.stride / self.samples * state.votes)
        around = _unit(state.direction + state.nudge * noise)
        far = label_search.pick(phase, (_unit(first), state.far, state.far, around, line))
        reach = jnp.minimum(state.distance, length(first))
        shares = reach, state.low, label_search.middle(state), state.distance, state.distance
        share = label_search.pick(phase, shares)
        counts = (phase != ESTIMATE) & ((phase != BISECT) | label_search.clear(state))
        state = state.replace(far=far, tries=state.tries + (phase == START))
        found, moved = label_search.ask(problem, state, jnp.clip(x + share * far, 0.0, 1.0), counts)
        opened = label_search.entered(moved, BISECT, low=jnp.zeros(()), high=reach)
        begun = label_search.choose(found, opened, self._begun(moved))
        after = begun, _down(moved, found), self._bisected(moved, found), self._voted(moved, noise, found)
        return label_search.pick(phase, (*after, self._lined(moved, found)))

    def _begun(self, state: State) -> State:
        """Whether to try another direction, or to leave the start: when enough are tried and one is adversarial."""
        enough = (state.tries >= self.directions) & jnp.isfinite(state.distance)
        return label_search.choose(enough, _estimate(state), label_search.entered(state, START))

    def _bisected(self, state: State, found: jax.Array) -> State:
        """After the middle was asked; at the end the direction is the best so far."""
        state = label_search.halved(state, found)
        better = state.replace(nearest=state.far, distance=state.high)
        longer = label_search.entered(better.replace(stride=2 * state.stride), LINE)
        searched = label_search.choose(state.shrinking, _estimate(better), longer)
        over = label_search.choose(jnp.isfinite(state.before), searched, self._begun(better))
        return label_search.choose(state.high - state.low <= TOLERANCE * state.high, over, state)

    def _voted(self, state: State, noise: jax.Array, found: jax.Array) -> State:
        """After a move from the direction was asked at its distance: adversarial means that the boundary is nearer."""
        state = state.replace(votes=state.votes + jnp.where(found, noise, -noise))
        return label_search.choose(state.asked >= self.samples, label_search.entered(state, LINE), state)

    def _lined(self, state: State, found: jax.Array) -> State:
        """After a step of the line search."""
        nearer = label_search.entered(state, DOWN, low=SHORTER * state.distance, high=state.distance)
        back = _estimate(state.replace(stride=state.stride / 2))
        stride = state.stride / 4
        shorter = state.replace(stride=stride, shrinking=jnp.ones((), bool))
        smaller = jnp.maximum(state.nudge / 10, SMALLEST)
        anew = _estimate(state.replace(stride=jnp.ones(()), nudge=smaller))
        failed = label_search.choose(stride < LEAST, anew, shorter)
        failed = label_search.choose(state.distance < state.before, back, failed)
        return label_search.choose(found, nearer, failed)


def _down(state: State, found: jax.Array) -> State:
    """After a distance a little shorter than one that is adversarial: the bracket moves down or is closed."""
    again = state.replace(high=state.low, low=SHORTER * state.low)
    return label_search.choose(found, again, label_search.entered(state, BISECT))


def _estimate(state: State) -> State:
    """The signs of derivatives at the best direction are asked for."""
    own = {"direction": state.nearest, "before": state.distance, "votes": jnp.zeros_like(state.votes)}
    return label_search.entered(state, ESTIMATE, shrinking=jnp.zeros((), bool), **own)


def _unit(direction: jax.Array) -> jax.Array:
    return direction / jnp.maximum(length(direction), TINY)
