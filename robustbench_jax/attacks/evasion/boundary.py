"""Boundary attack: a random walk along the decision boundary, from a far adversarial image towards the clean one.

Reference: Brendel, Rauber & Bethge, ICLR 2018, arXiv:1712.04248, section 2; settings of their program, in foolbox.
Shapes: D input shape. Written for one example; ops/drive.py adds the batch. One step is one query.
Defaults are foolbox's: both steps 0.01 of the distance at first, changed by a factor of 1.5; 25,000 steps there.
A proposal moves on the sphere around the image by the spherical step and then towards the image by the source step.
Every tenth query asks for a point on the sphere alone: where more than half of those are adversarial, both steps grow,
under a fifth they shrink. The source step alone grows where more than a quarter of the proposals are adversarial, and
shrinks under a tenth.
Departs from it: rates are those of whole blocks (of 10 such points, 30 proposals) instead of sliding windows of 100
and 30; the walk begins on the boundary, after a bisection to a thousandth.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.attacks.evasion import label_search
from robustbench_jax.attacks.evasion.label_search import TINY, LabelAttack, Walk, length
from robustbench_jax.ops.sums import inner
from robustbench_jax.registry import register
from robustbench_jax.types import Problem, record, require_positive

START, BISECT, WALK, SPHERE = range(4)  # phases
EVERY = 10  # queries, one of which asks for a point of the sphere
ON_SPHERE, PROPOSALS = 10, 30  # answers that make a rate
TOLERANCE = 1e-3


@record
class State(Walk):
    z: jax.Array  # [D], where the walk stands, adversarial
    spherical: jax.Array  # length of a step on the sphere, a fraction of the distance
    source: jax.Array  # length of one towards the image
    sphere: jax.Array  # [2], adversarial points of the sphere and all of this block
    proposals: jax.Array  # [2], the same of proposals


@register(
    "attack",
    "boundary",
    threat="evasion",
    access="labels",
    paper="brendel2018",
    budgets=("l2",),
    given=("pool",),
)
@record
class Boundary(LabelAttack):
    """spherical_step and source_step: the first ones, fractions of the distance. adaptation: how much they grow by."""

    queries: int = 25000
    spherical_step: float = 0.01
    source_step: float = 0.01
    adaptation: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        require_positive("boundary", spherical_step=self.spherical_step, source_step=self.source_step)
        require_positive("boundary", adaptation=self.adaptation)

    def init(self, key: jax.Array, problem: Problem) -> State:
        steps = {"spherical": self.spherical_step, "source": self.source_step}
        steps = {name: jnp.asarray(value, jnp.float32) for name, value in steps.items()}
        none = {"sphere": jnp.zeros(2), "proposals": jnp.zeros(2)}
        return State.at(problem.x, z=problem.x, **steps, **none, **self.start(problem))

    def step(self, key: jax.Array, problem: Problem, state: State) -> State:
        x, ball, phase = problem.x, problem.budget, state.phase
        on_sphere, proposal = _moves(key, x, state)
        asked = (
            self.candidate(key, problem, state),
            label_search.between(ball, x, state.far, label_search.middle(state)),
            proposal,
            on_sphere,
        )
        z = label_search.pick(phase, asked)
        found, moved = label_search.ask(problem, state, z, (phase != BISECT) | label_search.clear(state))
        begun = label_search.choose(found, label_search.bracket(moved, z, BISECT), moved)
        after = begun, _bisected(problem, moved, found), self._walked(moved, z, found), self._rated(moved, found)
        return label_search.pick(phase, after)

    def _walked(self, state: State, z: jax.Array, found: jax.Array) -> State:
        """After a proposal: it is taken where it is adversarial."""
        count, rate, full = _counted(state.proposals, found, PROPOSALS)
        source = state.source * jnp.where(full, self._factor(rate, 0.1, 0.25), 1.0)
        state = state.replace(z=jnp.where(found, z, state.z), proposals=count, source=source)
        return label_search.choose(state.asked % EVERY == EVERY - 1, _to(state, SPHERE), state)

    def _rated(self, state: State, found: jax.Array) -> State:
        """After a point of the sphere: nothing moves, both steps may change."""
        count, rate, full = _counted(state.sphere, found, ON_SPHERE)
        factor = jnp.where(full, self._factor(rate, 0.2, 0.5), 1.0)
        both = {"spherical": state.spherical * factor, "source": state.source * factor}
        return _to(state.replace(sphere=count, **both), WALK)

    def _factor(self, rate: jax.Array, low: float, high: float) -> jax.Array:
        return jnp.where(rate > high, 1 + self.adaptation, jnp.where(rate < low, 1 / (1 + self.adaptation), 1.0))


def _bisected(problem: Problem, state: State, found: jax.Array) -> State:
    """After the middle was asked; at the end the walk begins."""
    state = label_search.halved(state, found)
    z = label_search.between(problem.budget, problem.x, state.far, state.high)
    return label_search.choose(state.high - state.low <= TOLERANCE, label_search.entered(state, WALK, z=z), state)


def _moves(key: jax.Array, x: jax.Array, state: State) -> tuple[jax.Array, jax.Array]:
    """A point [D] of the sphere around x through z, and that point moved towards x by the source step."""
    away = state.z - x
    distance = jnp.maximum(length(away), TINY)
    noise = jax.random.normal(key, x.shape)
    noise = noise - inner(noise, away) / distance**2 * away
    turned = away + state.spherical * distance * noise / jnp.maximum(length(noise), TINY)
    on_sphere = jnp.clip(x + turned / jnp.sqrt(1 + state.spherical**2), 0.0, 1.0)
    left = on_sphere - x  # the box may have shortened it
    wanted = jnp.minimum((1 - state.source) * distance / jnp.maximum(length(left), TINY), 1.0)
    return on_sphere, jnp.clip(x + wanted * left, 0.0, 1.0)


def _counted(count: jax.Array, found: jax.Array, block: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(the count [2], which begins anew when the block is full, the rate, whether it is full)."""
    count = count + jnp.stack([found.astype(jnp.float32), jnp.ones(())])
    full = count[1] >= block
    return jnp.where(full, 0.0, count), count[0] / count[1], full


def _to(state: State, phase: int) -> State:
    return state.replace(phase=jnp.full((), phase, jnp.int32))
