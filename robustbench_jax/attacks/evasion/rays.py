"""RayS: a direction among the corners of the Linf ball, its signs flipped block by block where that is nearer.

Reference: Chen & Gu, KDD 2020, arXiv:2006.12792, algorithm 3.
Shapes: D input shape. Written for one example; ops/drive.py adds the batch. One step is one query.
As in the paper all signs are +1 at first; one query asks whether the flipped direction is adversarial at the present
radius, and only then the radius is bisected, to 1e-3 in L2; blocks halve when all have been flipped.
Departs from the paper: blocks of one entry, where halving ends, start over with the whole image. The paper has no
targeted form: here its signs point at the pool's nearest image of the target class, and the first radius is found as
any other.
"""

import math

import jax
import jax.numpy as jnp

from robustbench_jax.attacks.evasion import label_search
from robustbench_jax.attacks.evasion.label_search import LabelAttack, Walk
from robustbench_jax.registry import register
from robustbench_jax.types import Problem, record

CHECK, BISECT = range(2)  # phases
TOLERANCE = 1e-3  # L2


@record
class State(Walk):
    signs: jax.Array  # [D], the best direction; `far` is the one that is tried
    radius: jax.Array  # where it is adversarial; 1 at first, whether it is there or not
    level: jax.Array  # blocks are 2^-level of the image
    block: jax.Array  # which one is flipped


@register("attack", "rays", threat="evasion", access="labels", paper="chen2020rays", budgets=("linf",), given=("pool",))
@record
class RayS(LabelAttack):
    """Linf alone; no settings but the queries."""

    def init(self, key: jax.Array, problem: Problem) -> State:
        walk, none = self.start(problem), jnp.zeros((), jnp.int32)
        signs = jnp.ones_like(problem.x)
        if problem.goal == "targeted" and self.pool is not None:
            towards = jnp.where(self.pool_image(walk["starts"][0]) >= problem.x, 1.0, -1.0)
            signs = jnp.where(walk["starts"][0] >= 0, towards, signs)
        state = State.at(problem.x, signs=signs, radius=jnp.ones(()), level=none, block=none, **walk)
        return state.replace(far=_flipped(state))

    def step(self, key: jax.Array, problem: Problem, state: State) -> State:
        share = jnp.where(state.phase == CHECK, state.radius, label_search.middle(state))
        counts = (state.phase == CHECK) | label_search.clear(state)
        found, moved = label_search.ask(problem, state, jnp.clip(problem.x + share * state.far, 0.0, 1.0), counts)
        checked = label_search.choose(found, _opened(moved), _next(moved))
        halved = label_search.halved(moved, found)
        better = _next(halved.replace(signs=state.far, radius=halved.high))
        narrow = halved.high - halved.low <= TOLERANCE / math.sqrt(problem.x.size)
        return label_search.pick(state.phase, (checked, label_search.choose(narrow, better, halved)))


def _opened(state: State) -> State:
    """The tried direction is adversarial at the radius: the bisection of the radius begins."""
    return label_search.entered(state, BISECT, low=jnp.zeros(()), high=state.radius)


def _next(state: State) -> State:
    """The next block is tried."""
    d = state.signs.size
    count = jnp.left_shift(1, state.level)
    last = (state.block + 1 >= count) | ((state.block + 1) * _side(d, state.level) >= d)
    block, level = jnp.where(last, 0, state.block + 1), state.level + last
    state = label_search.entered(state, CHECK, block=block, level=jnp.where(level > _deepest(d), 0, level))
    return state.replace(far=_flipped(state))


def _flipped(state: State) -> jax.Array:
    """The best direction [D] with the present block's signs changed; blocks run channel by channel, row by row."""
    shape = state.signs.shape
    order = jnp.arange(state.signs.size)
    order = jnp.moveaxis(order.reshape(shape[-1], *shape[:-1]), 0, -1) if len(shape) == 3 else order.reshape(shape)
    return jnp.where(order // _side(state.signs.size, state.level) == state.block, -state.signs, state.signs)


def _side(d: int, level: jax.Array) -> jax.Array:
    """Entries of a block."""
    count = jnp.left_shift(1, level)
    return (d + count - 1) // count


def _deepest(d: int) -> int:
    """The level at which a block is one entry."""
    return max(d - 1, 0).bit_length()
