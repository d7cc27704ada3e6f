"""The bucket: work items that advance together on the device.

W slots, a power of two, hold the active items of one attack. Finished ones leave, queued ones take their slots, and a
bucket that will not be refilled shrinks to the narrowest that holds what is left.
Steps run in one compiled loop, more and more of them between two looks while nothing finishes; one at a time, called
from Python, where the model would be slow in a loop (see Runtime.longest).
Shapes: W bucket width, D input shape, Z the budget's points.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.keys import stream
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.ledger import Ledger
from robustbench_jax.ops.runtime import NARROWEST, placed, power_of_two
from robustbench_jax.ops.views import answering, view
from robustbench_jax.types import Classifier, EvasionAttack, Problem, State, record


@record
class Lane:
    """One slot: the part of a Problem that differs from example to example."""

    id: jax.Array
    item: jax.Array
    x: jax.Array
    y: jax.Array
    target: jax.Array


@dataclass(frozen=True)
class Finished:
    """One work item that left the bucket, waiting for the judge."""

    item: int
    example: int
    target: int
    x_adv: np.ndarray
    forwards: int
    gradients: int
    vanished: int


class Bucket:
    """W slots on the device. `owner` [W, 2] says which (item, example) each slot works on; -1 is a free slot."""

    def __init__(self, key: jax.Array, attack: EvasionAttack, model: Classifier, budget: Any, width: int, runtime):
        self.key, self.attack, self.budget, self.runtime = key, attack, budget, runtime
        self.owner = np.full((width, 2), -1)
        self.model, self.place = placed(model, runtime, width)
        self.lanes = self.states = None
        self.look, self.longest = 1, 0

    @property
    def width(self) -> int:
        return len(self.owner)

    @property
    def active(self) -> np.ndarray:
        return self.owner[:, 1] >= 0

    @property
    def free(self) -> int:
        return self.width - int(self.active.sum())

    def fill(self, items: list[tuple[int, int]], x: np.ndarray, y: np.ndarray, ids: np.ndarray) -> None:
        """Starts items in the free slots; the other slots keep what they have."""
        if not items:
            return
        slots = np.flatnonzero(~self.active)[: len(items)]
        self.owner[slots] = items
        fresh = np.zeros(self.width, bool)
        fresh[slots] = True
        item, example = np.where(fresh[:, None], self.owner, self.owner[slots[0]]).T
        rows = map(self.place, (x[example], y[example], ids[example], item))
        new = start(self.key, self.attack, self.model, self.budget, *rows)
        self.longest = self.longest or self.runtime.longest(self.model, x.shape[1:])
        kept = self.lanes, self.states
        self.lanes, self.states = new if self.lanes is None else _merge(self.place(fresh), new, kept)

    def advance(self) -> list[Finished]:
        """Steps all slots; takes out the finished ones."""
        if not self.active.any():
            return []
        arguments = self.key, self.attack, self.model, self.budget, self.lanes, self.states
        self.states, over = step(*arguments) if self.longest == 1 else steps(*arguments, self.look)
        slots = np.flatnonzero(np.asarray(over) & self.active)
        self.look = 1 if len(slots) else min(2 * self.look, self.longest)
        return self._leave(slots) if len(slots) else []

    def _leave(self, slots: np.ndarray) -> list[Finished]:
        rows = slots[np.minimum(np.arange(power_of_two(len(slots))), len(slots) - 1)]
        states = self.states
        x_adv = np.asarray(_rows(states.x_adv, rows))
        counts = [np.asarray(count)[slots] for count in (states.forwards, states.gradients, states.vanished)]
        target = np.asarray(self.lanes.target)[slots]
        left = [
            Finished(*map(int, self.owner[slot]), int(target[row]), x_adv[row], *(int(count[row]) for count in counts))
            for row, slot in enumerate(slots)
        ]
        self.owner[slots] = -1
        return left

    def drop(self, ledger: Ledger) -> None:
        """Frees the slots whose item can no longer matter."""
        useless = self.active & ~ledger.matters(self.owner[:, 0], self.owner[:, 1])
        self.owner[useless] = -1

    def shrink(self) -> None:
        """Moves the active slots into the narrowest bucket that holds them."""
        active = np.flatnonzero(self.active)
        width = max(power_of_two(len(active)), NARROWEST, self.runtime.mesh.size)
        if not len(active) or width >= self.width:
            return
        rows = active[np.minimum(np.arange(width), len(active) - 1)]
        self.owner = np.where((np.arange(width) < len(active))[:, None], self.owner[rows], -1)
        self.model, self.place = placed(self.model, self.runtime, width)
        self.lanes, self.states = self.place(_rows((self.lanes, self.states), rows))


@jax.jit
def start(key, attack, model, budget, x, y, ids, item) -> tuple[Lane, State]:
    """Lanes and first states of W items; x [W, D] uint8 or float32."""
    x = as_unit(x)

    def one(x, y, id, item):
        target = jnp.full((), -1, jnp.int32)
        if attack.goal == "targeted":
            chosen = stream(jax.random.fold_in(key, id), "target")
            target = attack.target(chosen, answering(model.keyed(chosen), y)(x), y).astype(jnp.int32)
        lane = Lane(id, item, x, y, target)
        own = _key(key, lane, 0)
        return lane, attack.init(own, _problem(own, attack, model, budget, lane))

    return jax.vmap(one)(x, y, ids, item)


@jax.jit
def step(key, attack, model, budget, lanes: Lane, states: State) -> tuple[State, jax.Array]:
    """All items one step on, and which of them are over, bool [W]."""
    states = _advance(key, attack, model, budget, lanes, states)
    return states, _over(attack, states)


@jax.jit
def steps(key, attack, model, budget, lanes: Lane, states: State, count) -> tuple[State, jax.Array]:
    """As `step`, `count` times in one compiled loop."""

    def body(_, states):
        return _advance(key, attack, model, budget, lanes, states)

    states = jax.lax.fori_loop(0, count, body, states)
    return states, _over(attack, states)


def _advance(key, attack, model, budget, lanes: Lane, states: State) -> State:
    return jax.vmap(partial(_advance_one, key, attack, model, budget))(lanes, states)


def _advance_one(key, attack, model, budget, lane: Lane, state: State) -> State:
    own = _key(key, lane, state.t + 1)
    new = attack.step(own, _problem(own, attack, model, budget, lane), state)
    if attack.queries is not None:  # what it cannot afford, it has not learnt
        spent = new.forwards > attack.queries
        new = _choose(spent, state.replace(t=jnp.asarray(attack.steps, jnp.int32)), new)
    return _choose(_over(attack, state), state, new)


def _choose(condition: jax.Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(partial(jnp.where, condition), yes, no)


def _over(attack: EvasionAttack, state: State) -> jax.Array:
    return state.done | (state.t >= attack.steps)


def _key(key, lane: Lane, t) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, lane.id), lane.item), t)


def _problem(key, attack, model, budget, lane: Lane) -> Problem:
    seen = view(answering(model.keyed(stream(key, "model")), lane.y), attack.access)
    return Problem(seen, budget, attack.goal, lane.x, lane.y, lane.target, lane.item)


@jax.jit
def _merge(fresh, new, old):
    def pick(new, old):
        return jnp.where(fresh.reshape(fresh.shape + (1,) * (new.ndim - 1)), new, old)

    return jax.tree.map(pick, new, old)


@jax.jit
def _rows(tree, rows):
    return jax.tree.map(lambda leaf: leaf[rows], tree)
