"""What attacks that see labels alone share: a first adversarial image, bisection, which points count.

Reference: starts from noise or from images of other classes, Brendel et al., ICLR 2018, arXiv:1712.04248, section 2.1.
Shapes: D input shape, P images of the pool; one example.
Such an attack asks one question a step; its phase says which, so that examples in different phases share a program and
no query is made in vain. The first questions look for a start: uniform noise (TRIES times), then the pool's nearest
images whose label is not y, or is the target (NEAREST), then noise again. Towards a target, where noise does not lead,
the pool comes first.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.keys import generator, stream
from robustbench_jax.ops import smallest
from robustbench_jax.ops.balls import Ball
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.smallest import Search
from robustbench_jax.ops.sums import inner
from robustbench_jax.types import EvasionAttack, Problem, record, require_positive

TRIES, NEAREST = 4, 8
POOLED = 128  # images kept of the pool, or two a class where that is more
RELIABLE = 1e-3  # of the distance: how far from the last failure a point of a bisection must lie to count
TINY = 1e-12


@record
class Pool:
    """Images that an attacker has, with their labels: x [P, D] uint8 or float32, y int32 [P]."""

    x: jax.Array
    y: jax.Array


@record
class Walk(Search):
    """The state of such an attack while it looks for a start and bisects the way from the image to it."""

    phase: jax.Array  # which question comes next
    asked: jax.Array  # how many this phase has asked
    starts: jax.Array  # int32 [NEAREST], rows of the pool
    far: jax.Array  # [D], the adversarial end of a bisection
    low: jax.Array  # share of the way to it that is known not to be adversarial
    high: jax.Array  # share that is


@record
class LabelAttack(EvasionAttack):
    """queries: forward evaluations of one run, one a step; the search for a start is included."""

    queries: int = 5000
    pool: Any = None
    minimal = True
    prepares = True

    def __post_init__(self):
        require_positive(self.registered[1], queries=self.queries)

    @property
    def steps(self) -> int:
        return self.queries

    def prepare(self, key: jax.Array, model: Any, budget: Any, x: Any, y: Any, runtime: Any) -> "LabelAttack":
        """The attack with images to start from. The key is consumed; the model is not asked."""
        rows = _spread(generator(stream(key, "rows")), np.asarray(y))
        return self.replace(pool=Pool(jnp.asarray(x[rows]), jnp.asarray(y[rows], jnp.int32)))

    def start(self, problem: Problem) -> dict[str, jax.Array]:
        """The fields of a Walk at its beginning, and `best`."""
        none, zero = jnp.zeros((), jnp.int32), jnp.zeros(())
        starts = jnp.zeros(NEAREST, jnp.int32) if self.pool is None else _nearest(problem, self.pool)
        bracket = {"far": problem.x, "low": zero, "high": zero + 1}
        return {"best": zero + jnp.inf, "phase": none, "asked": none, "starts": starts} | bracket

    def candidate(self, key: jax.Array, problem: Problem, state: Walk) -> jax.Array:
        """The next image [D] that may be a start."""
        noise = jax.random.uniform(key, problem.x.shape)
        if self.pool is None:
            return noise
        number = state.asked - (0 if problem.goal == "targeted" else TRIES)
        row = state.starts[jnp.clip(number, 0, NEAREST - 1)]
        usable = (number >= 0) & (number < NEAREST) & (row >= 0)
        return jnp.where(usable, self.pool_image(row), noise)

    def pool_image(self, row: jax.Array) -> jax.Array:
        """That row of the pool [D]; the first for -1."""
        return as_unit(self.pool.x[jnp.maximum(row, 0)])


def ask(problem: Problem, state: Walk, z: jax.Array, counts: Any = True, **own: Any) -> tuple[jax.Array, Walk]:
    """(z [D] is adversarial, the state one step on) after one forward evaluation. counts: z may become x_adv."""
    found, x_adv, best = smallest.meet(problem, state, z, problem.logits(z))
    x_adv, best = jnp.where(counts, x_adv, state.x_adv), jnp.where(counts, best, state.best)
    return found, state.move(x_adv, gradients=0, best=best, asked=state.asked + 1, **own)


def between(ball: Ball, x: jax.Array, far: jax.Array, share: jax.Array) -> jax.Array:
    """The image [D] a share of the way from x to `far`; in Linf `far` cut to that share of its distance."""
    if ball.p == 2:
        return jnp.clip(x + share * (far - x), 0.0, 1.0)
    reach = share * ball.size(far - x)
    return jnp.clip(jnp.clip(far, x - reach, x + reach), 0.0, 1.0)


def middle(state: Walk) -> jax.Array:
    return (state.low + state.high) / 2


def clear(state: Walk) -> jax.Array:
    """Whether the middle is so far from the last failure that float32 will not decide what another program says."""
    return middle(state) - state.low > RELIABLE * middle(state)


def halved(state: Walk, found: jax.Array) -> Walk:
    """The bracket after the middle was asked."""
    half = middle(state)
    return state.replace(low=jnp.where(found, state.low, half), high=jnp.where(found, half, state.high))


def bracket(state: Walk, far: jax.Array, phase: int) -> Walk:
    """A new bisection, from the image to `far` [D], in this phase."""
    zero = jnp.zeros(())
    return state.replace(far=far, low=zero, high=zero + 1, phase=jnp.full((), phase, jnp.int32))


def entered(state: Walk, phase: int, **own: Any) -> Walk:
    """The state at the beginning of a phase."""
    return state.replace(phase=jnp.full((), phase, jnp.int32), asked=jnp.zeros((), jnp.int32), **own)


def pick(phase: jax.Array, options: tuple) -> Any:
    """options[phase], of trees of one structure."""
    chosen = options[0]
    for number, option in enumerate(options[1:], 1):
        chosen = choose(phase == number, option, chosen)
    return chosen


def choose(condition: jax.Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def length(direction: jax.Array) -> jax.Array:
    """Its L2 norm."""
    return jnp.sqrt(inner(direction, direction))


def _spread(rng: np.random.Generator, y: np.ndarray) -> np.ndarray:
    """Rows of up to POOLED images, as many of each class as of the others where there are enough."""
    order = rng.permutation(len(y))
    rank = np.zeros(len(y), int)
    for label in np.unique(y):
        own = order[y[order] == label]
        rank[own] = np.arange(len(own))
    kept = max(POOLED, 2 * len(np.unique(y)))
    return order[np.argsort(rank[order], kind="stable")][:kept]


def _nearest(problem: Problem, pool: Pool) -> jax.Array:
    """int32 [NEAREST]: rows of the pool with a label that reaches the goal, the nearest in L2 first; -1 for none."""
    flat = as_unit(pool.x).reshape(len(pool.y), -1)
    distance = jnp.sum(flat * flat, axis=1) - 2 * jnp.dot(flat, problem.x.ravel(), precision="highest")
    wanted = pool.y != problem.y if problem.goal == "untargeted" else pool.y == problem.target
    distance = jnp.where(wanted, distance, jnp.inf)
    rows = jnp.argsort(distance)[:NEAREST]
    rows = jnp.where(jnp.isfinite(distance[rows]), rows, -1).astype(jnp.int32)
    return jnp.concatenate([rows, jnp.full(NEAREST - len(rows), -1, jnp.int32)])
