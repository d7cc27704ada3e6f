"""SurFree: circles through the image and a boundary point, in random planes, followed to the boundary's nearest side.

Reference: Maho, Furon & Le Merrer, CVPR 2021, arXiv:2011.12807, algorithm 1; settings of the authors' program.
Shapes: D = [H, W, C] input shape. Written for one example; ops/drive.py adds the batch. One step is one query.
A plane is spanned by the present direction u and a random one v, low in frequency and weighted as the image's own
spectrum; the point at angle a from u lies at distance * cos(a) in direction cos(a) u + sin(a) v, nearer for every a.
As in their program the angle tried is 30 degrees at first, times 0.95 after failures of both signs, divided by it after
a success; a success is extended by the same angle until it fails and then bisected to 0.01 in cosine; the last queries
bisect the way to the image.
Departs from it: v is orthogonal to the present u (there: to the first one) and to the last 10 directions, not 100;
a bisection does not try the opposite sign again; images are not rounded.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.attacks.evasion import label_search
from robustbench_jax.attacks.evasion.label_search import TINY, LabelAttack, Walk, length
from robustbench_jax.ops.sums import inner
from robustbench_jax.registry import register
from robustbench_jax.types import Problem, UserError, record, require_positive

START, BISECT, TRY, EXTEND, SEARCH = range(5)  # phases
TOLERANCE, COSINE = 1e-3, 0.01
LAST = 12  # queries kept for the last bisection
REMEMBERED = 10  # directions
FIRST_ANGLE, WIDEST = math.pi / 6, 0.98 * math.pi / 2
FLOOR = 1e-3  # weight of a frequency that the image lacks


@record
class State(Walk):
    z: jax.Array  # [D], adversarial; `low` and `high` are angles while a plane is searched
    v: jax.Array  # [D], the plane's second direction
    past: jax.Array  # [REMEMBERED, D], those of the last planes
    drawn: jax.Array  # number of planes
    angle: jax.Array  # tried first
    side: jax.Array  # 1 or -1, its sign


@register("attack", "surfree", threat="evasion", access="labels", paper="maho2021", budgets=("l2",), given=("pool",))
@record
class SurFree(LabelAttack):
    """band: share of the frequencies that directions are made of, the lowest. shrink: factor of the angle tried."""

    band: float = 0.5
    shrink: float = 0.95

    def __post_init__(self):
        super().__post_init__()
        require_positive("surfree", band=self.band, shrink=self.shrink)
        for name in ("band", "shrink"):
            value = getattr(self, name)
            if isinstance(value, int | float) and value > 1:
                raise UserError(f"surfree: {name} = {value} must be at most 1")

    def init(self, key: jax.Array, problem: Problem) -> State:
        x = problem.x
        if x.ndim != 3:
            raise UserError(f"surfree needs images [H, W, C]; got {list(x.shape)}")
        own = {"z": x, "v": jnp.zeros_like(x), "past": jnp.zeros((REMEMBERED, *x.shape)), "side": jnp.ones(())}
        own |= {"drawn": jnp.zeros((), jnp.int32), "angle": jnp.full((), FIRST_ANGLE)}
        return State.at(x, **own, **self.start(problem))

    def step(self, key: jax.Array, problem: Problem, state: State) -> State:
        x, phase = problem.x, state.phase
        fresh = (phase == TRY) & (state.side > 0)
        state = label_search.choose(fresh, self._drawn(key, x, state), state)
        angle = label_search.pick(phase - TRY, (state.side * state.angle, _wider(state), label_search.middle(state)))
        radial = label_search.between(problem.budget, x, state.far, label_search.middle(state))
        first = label_search.choose(phase == START, self.candidate(key, problem, state), radial)
        z = label_search.choose(phase < TRY, first, _on_circle(x, state, angle))
        found, moved = label_search.ask(problem, state, z, (phase != BISECT) | label_search.clear(state))
        begun = label_search.choose(found, label_search.bracket(moved, z, BISECT), moved)
        after = begun, self._bisected(problem, moved, found), self._tried(moved, found)
        return label_search.pick(phase, (*after, self._extended(x, moved, found), self._searched(x, moved, found)))

    def _bisected(self, problem: Problem, state: State, found: jax.Array) -> State:
        """After a point between the image and `far`; at the end the first plane is drawn."""
        state = label_search.halved(state, found)
        z = label_search.between(problem.budget, problem.x, state.far, state.high)
        return label_search.choose(state.high - state.low <= TOLERANCE, _plane(state, z), state)

    def _tried(self, state: State, found: jax.Array) -> State:
        """After the first angle of a plane, of either sign."""
        narrower = jnp.where(state.side < 0, self.shrink, 1.0) * state.angle
        failed = state.replace(side=-state.side, angle=narrower)
        wider = jnp.minimum(state.angle / self.shrink, WIDEST)
        success = label_search.entered(state, EXTEND, high=state.side * state.angle, angle=wider)
        return label_search.choose(found, success, failed)

    def _extended(self, x: jax.Array, state: State, found: jax.Array) -> State:
        """After an angle wider than one that was adversarial."""
        wider = _wider(state)
        longer = state.replace(high=wider)
        longer = label_search.choose(jnp.abs(wider) >= WIDEST, self._accepted(x, longer), longer)
        return label_search.choose(found, longer, label_search.entered(state, SEARCH, low=wider))

    def _searched(self, x: jax.Array, state: State, found: jax.Array) -> State:
        """After the middle of two angles; at the end the adversarial one is taken."""
        state = label_search.halved(state, found)
        close = jnp.abs(jnp.cos(state.high) - jnp.cos(state.low)) <= COSINE
        return label_search.choose(close, self._accepted(x, state), state)

    def _accepted(self, x: jax.Array, state: State) -> State:
        z = _on_circle(x, state, state.high)
        over = self.queries - state.t <= LAST
        return label_search.choose(over, label_search.bracket(state, z, BISECT), _plane(state, z))

    def _drawn(self, key: jax.Array, x: jax.Array, state: State) -> State:
        """A new plane: v of L2 length 1, orthogonal to u and to the last planes' v."""
        rows, columns = _cosines(x.shape[0]), _cosines(x.shape[1])
        spectrum = jnp.einsum("ij,jkc,lk->ilc", rows, x, columns)
        weight = jnp.where(_lowest(x.shape, self.band), jnp.tanh(jnp.abs(spectrum)) + FLOOR, 0.0)
        weight = weight * jax.random.randint(key, x.shape, -1, 2)
        v = jnp.einsum("ij,ikc,kl->jlc", rows, weight, columns)
        u = state.z - x
        u = u / jnp.maximum(length(u), TINY)
        used = jnp.concatenate([u.reshape(1, -1), state.past.reshape(REMEMBERED, -1)])
        gram = jnp.dot(used, used.T, precision="highest") + 1e-6 * jnp.eye(len(used))
        shares = jnp.linalg.solve(gram, jnp.dot(used, v.ravel(), precision="highest"))
        v = v - jnp.dot(shares, used, precision="highest").reshape(x.shape)
        v = v - inner(u, v) * u
        v = v / jnp.maximum(length(v), TINY)
        return state.replace(v=v, past=state.past.at[state.drawn % REMEMBERED].set(v), drawn=state.drawn + 1)


def _plane(state: State, z: jax.Array) -> State:
    """The search goes on from z [D] with a new plane."""
    return label_search.entered(state, TRY, z=z, side=jnp.ones(()))


def _wider(state: State) -> jax.Array:
    return jnp.clip(state.high + state.side * state.angle, -WIDEST, WIDEST)


def _on_circle(x: jax.Array, state: State, angle: jax.Array) -> jax.Array:
    u = state.z - x
    turned = jnp.cos(angle) * u + jnp.sin(angle) * length(u) * state.v
    return jnp.clip(x + jnp.cos(angle) * turned, 0.0, 1.0)


def _cosines(n: int) -> np.ndarray:
    """The orthonormal DCT-II [n, n], a row a frequency."""
    wave = np.cos(np.pi / n * np.outer(np.arange(n), np.arange(n) + 0.5)) * np.sqrt(2 / n)
    wave[0] /= np.sqrt(2)
    return wave.astype(np.float32)


def _lowest(shape: tuple[int, ...], band: float) -> jax.Array:
    """True at that share of the frequencies [H, W, 1] with the smallest sum of row and column."""
    height, width, _ = shape
    rank = np.argsort(np.argsort((np.arange(height)[:, None] + np.arange(width)).ravel(), kind="stable"))
    return jnp.asarray(rank).reshape(height, width, 1) < band * height * width
