"""The driver: turns a kernel written for one example into a fast program over many.

Work items wait in a queue (ops/ledger.py). A bucket of a power-of-two width holds the active ones on the device; all
advance together, finished ones leave, queued ones take their slots, and when the queue is empty the bucket shrinks.
The attack proposes, the judge decides: what leaves is projected once more and judged by the deployed model.

What an example gets depends on its id (`per_example` keys), not on its neighbours, the width or the devices.
Loop form: on CPU a convolution inside a compiled loop takes a slow path (jax-ml/jax#12868), so one compiled step is
called from Python; on accelerators `chunk` steps run inside one compiled loop.
Shapes: N examples, W bucket width, D input shape, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.keys import stream
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.ledger import Ledger
from robustbench_jax.ops.views import view
from robustbench_jax.types import Classifier, EvasionAttack, Problem, State, UserError, record

NARROWEST = 8  # a bucket does not shrink below this: narrower ones save nothing and round differently


@dataclass(frozen=True)
class Runtime:
    """What changes the speed and not the answer. None: chosen by platform.

    width: examples in one bucket, rounded up to a power of two. chunk: steps between two looks at what is finished
    (accelerators only). devices: how many local devices share the bucket.
    """

    width: int | None = None
    chunk: int | None = None
    devices: int | None = None

    def __post_init__(self):
        for name in ("width", "chunk", "devices"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise UserError(f"runtime: {name} = {value!r} must be a whole number of at least 1")

    @property
    def batch(self) -> int:
        return _power_of_two(self.width or (64 if on_cpu() else 512))

    @property
    def look(self) -> int:
        return 1 if on_cpu() else (self.chunk or 8)

    @property
    def mesh(self) -> jax.sharding.Mesh:
        """The local devices that share the batch axis: the largest power of two of them that was asked for."""
        local = jax.local_devices()
        if self.devices is not None and self.devices > len(local):
            raise UserError(f"runtime: devices = {self.devices}: this machine has {len(local)}")
        count = 1 << ((self.devices or len(local)).bit_length() - 1)
        return jax.sharding.Mesh(np.array(local[:count]), ("batch",))


@dataclass(frozen=True)
class Attacked:
    """What an attack did to N examples, on the host.

    success bool[N] (judged), x_adv float32[N, D], broken_by int[N] (stage of a cascade, -1 for none),
    forwards and gradients int[N].
    """

    success: np.ndarray
    x_adv: np.ndarray
    broken_by: np.ndarray
    forwards: np.ndarray
    gradients: np.ndarray


@record
class Lane:
    """One slot of a bucket: the part of a Problem that differs from example to example."""

    id: jax.Array
    item: jax.Array
    x: jax.Array
    y: jax.Array
    target: jax.Array


def on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def drive(
    key: jax.Array,
    attack: EvasionAttack,
    model: Classifier,
    budget: Any,
    x: np.ndarray,
    y: np.ndarray,
    *,
    ids: np.ndarray | None = None,
    runtime: Runtime = Runtime(),
    report: Callable[[int], None] = lambda settled: None,
) -> Attacked:
    """Attacks x [N, D] (uint8, or float32 in [0, 1]) with labels y [N]. The key is consumed.

    A cascade's stages run in order, each on the survivors of the ones before. `report` is called with the number
    of examples whose verdict is known.
    """
    ids = np.arange(len(y)) if ids is None else np.asarray(ids)
    stages = getattr(attack, "stages", (attack,))
    found = Attacked(
        np.zeros(len(y), bool), as_unit(x), np.full(len(y), -1), np.zeros(len(y), np.int64), np.zeros(len(y), np.int64)
    )
    for number, stage in enumerate(stages):
        left = np.flatnonzero(~found.success)
        if not len(left):
            break
        known = len(y) - len(left)
        last = number == len(stages) - 1
        settled = partial(_settled, report, known, last)
        got = _run(stream(key, f"stage {number}"), stage, model, budget, x[left], y[left], ids[left], runtime, settled)
        found.success[left], found.x_adv[left] = got.success, got.x_adv
        found.broken_by[left[got.success]] = number
        found.forwards[left] += got.forwards
        found.gradients[left] += got.gradients
    report(len(y))
    return found


def attack_batch(
    key: jax.Array, attack: EvasionAttack, model: Classifier, budget: Any, x: jax.Array, y: jax.Array, ids: jax.Array
) -> jax.Array:
    """x_adv [B, D] of the attack's first work item, without queue or judge: for training on adversarial examples."""
    item = jnp.zeros(len(y), jnp.int32)
    lanes, states = _start(key, attack, model, budget, x, y, ids, item)
    if on_cpu():
        for _ in range(int(attack.steps)):
            states, _ = _step(key, attack, model, budget, lanes, states)
    else:
        states, _ = _steps(key, attack, model, budget, lanes, states, int(attack.steps))
    return states.x_adv


def predict(model: Classifier, x: np.ndarray, runtime: Runtime = Runtime()) -> np.ndarray:
    """Logits float32 [N, C] of images [N, D], a bucket at a time."""
    width = min(runtime.batch, max(_power_of_two(len(x)), NARROWEST))
    model, place = _placed(model, runtime, width)
    return _by_slices(lambda part: _logits(model, place(part)), [x], width)[: len(x)]


def judge(
    model: Classifier,
    budget: Any,
    goal: str,
    x: np.ndarray,
    x_adv: np.ndarray,
    y: np.ndarray,
    target: np.ndarray,
    runtime: Runtime = Runtime(),
) -> tuple[np.ndarray, np.ndarray]:
    """What the harness believes: x_adv projected onto the budget, and whether the deployed model then errs."""
    width = min(runtime.batch, max(_power_of_two(len(x)), NARROWEST))
    model, place = _placed(model, runtime, width)
    judged = _by_slices(lambda *part: _judge(model, budget, goal, *map(place, part)), [x, x_adv, y, target], width)
    return judged[0][: len(x)], judged[1][: len(x)]


def _settled(report: Callable, known: int, last: bool, broken: int, finished: int) -> None:
    report(known + (finished if last else broken))


def _run(key, attack, model, budget, x, y, ids, runtime, report) -> Attacked:
    """One stage: the queue of one attack over N examples."""
    ledger = Ledger(len(y), int(attack.items))
    x_adv, targets = as_unit(x), np.full(len(y), -1)
    width = min(runtime.batch, max(_power_of_two(len(y) * ledger.items), NARROWEST, runtime.mesh.size))
    bucket = Bucket(key, attack, model, budget, width, runtime)
    waiting: list[Finished] = []
    while ledger.pending or bucket.active.any() or waiting:
        if bucket.free >= max(1, bucket.width // 4) and ledger.pending:
            bucket.fill(ledger.take(bucket.free), x, y, ids)
        waiting += bucket.advance()
        idle = not bucket.active.any()
        if waiting and (idle or ledger.items > 1 or len(waiting) >= width):
            _settle(ledger, waiting, model, budget, attack.goal, x, y, x_adv, runtime)
            waiting = []
            bucket.drop(ledger)
            report(int(ledger.broken.sum()), ledger.finished)
        if not ledger.pending:
            bucket.shrink()
    return Attacked(ledger.broken, x_adv, targets, ledger.spent(ledger.forwards), ledger.spent(ledger.gradients))


@dataclass(frozen=True)
class Finished:
    """One work item that left the bucket, waiting for the judge."""

    item: int
    example: int
    target: int
    x_adv: np.ndarray
    forwards: int
    gradients: int


def _settle(ledger: Ledger, waiting: list[Finished], model, budget, goal, x, y, x_adv, runtime) -> None:
    examples = np.array([f.example for f in waiting])
    proposed, target = np.stack([f.x_adv for f in waiting]), np.array([f.target for f in waiting])
    judged, success = judge(model, budget, goal, x[examples], proposed, y[examples], target, runtime)
    for row, f in enumerate(waiting):
        if ledger.settle(f.item, f.example, bool(success[row]), f.forwards, f.gradients):
            x_adv[f.example] = judged[row]


class Bucket:
    """W slots on the device. `owner` [W, 2] says which (item, example) each slot works on; -1 is a free slot."""

    def __init__(self, key, attack, model, budget, width: int, runtime: Runtime):
        self.key, self.attack, self.budget, self.runtime = key, attack, budget, runtime
        self.owner = np.full((width, 2), -1)
        self.model, self.place = _placed(model, runtime, width)
        self.lanes = self.states = None

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
        start = _start(
            self.key,
            self.attack,
            self.model,
            self.budget,
            *map(self.place, (x[example], y[example], ids[example], item)),
        )
        self.lanes, self.states = (
            start if self.lanes is None else _merge(self.place(fresh), start, (self.lanes, self.states))
        )

    def advance(self) -> list[Finished]:
        """Steps all slots; takes out the finished ones."""
        if not self.active.any():
            return []
        arguments = self.key, self.attack, self.model, self.budget, self.lanes, self.states
        self.states, over = _step(*arguments) if on_cpu() else _steps(*arguments, self.runtime.look)
        slots = np.flatnonzero(np.asarray(over) & self.active)
        return self._leave(slots) if len(slots) else []

    def _leave(self, slots: np.ndarray) -> list[Finished]:
        rows = slots[np.minimum(np.arange(_power_of_two(len(slots))), len(slots) - 1)]
        states = self.states
        x_adv = np.asarray(states.x_adv[rows])
        forwards, gradients, target = map(np.asarray, (states.forwards, states.gradients, self.lanes.target))
        left = [
            Finished(
                int(self.owner[s, 0]),
                int(self.owner[s, 1]),
                int(target[s]),
                x_adv[row],
                int(forwards[s]),
                int(gradients[s]),
            )
            for row, s in enumerate(slots)
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
        width = max(_power_of_two(len(active)), NARROWEST, self.runtime.mesh.size)
        if not len(active) or width >= self.width:
            return
        rows = active[np.minimum(np.arange(width), len(active) - 1)]
        self.owner = np.where((np.arange(width) < len(active))[:, None], self.owner[rows], -1)
        self.model, self.place = _placed(self.model, self.runtime, width)
        self.lanes, self.states = self.place(_rows((self.lanes, self.states), rows))


@jax.jit
def _start(key, attack, model, budget, x, y, ids, item) -> tuple[Lane, State]:
    x = as_unit(x)

    def one(x, y, id, item):
        target = jnp.full((), -1, jnp.int32)
        if attack.goal == "targeted":
            target = attack.target(stream(jax.random.fold_in(key, id), "target"), model(x), y).astype(jnp.int32)
        lane = Lane(id, item, x, y, target)
        return lane, attack.init(_key(key, lane, 0), _problem(attack, model, budget, lane))

    return jax.vmap(one)(x, y, ids, item)


def _advance_one(key, attack, model, budget, lane: Lane, state: State) -> State:
    new = attack.step(_key(key, lane, state.t + 1), _problem(attack, model, budget, lane), state)
    return jax.tree.map(partial(jnp.where, _over(attack, state)), state, new)


def _advance_all(key, attack, model, budget, lanes, states) -> State:
    return jax.vmap(partial(_advance_one, key, attack, model, budget))(lanes, states)


def _over(attack: EvasionAttack, state: State) -> jax.Array:
    return state.done | (state.t >= attack.steps)


@jax.jit
def _step(key, attack, model, budget, lanes, states):
    states = _advance_all(key, attack, model, budget, lanes, states)
    return states, _over(attack, states)


@jax.jit
def _steps(key, attack, model, budget, lanes, states, count):
    def body(_, states):
        return _advance_all(key, attack, model, budget, lanes, states)

    states = jax.lax.fori_loop(0, count, body, states)
    return states, _over(attack, states)


@partial(jax.jit, static_argnames="goal")
def _judge(model, budget, goal, x, x_adv, y, target):
    x = as_unit(x)

    def one(x, x_adv, y, target):
        x_adv = budget.project(x, x_adv)
        return x_adv, Problem(model, budget, goal, x, y, target, 0).adversarial(model(x_adv))

    return jax.vmap(one)(x, x_adv, y, target)


@jax.jit
def _logits(model, x):
    return jax.vmap(model)(as_unit(x))


@jax.jit
def _merge(fresh, new, old):
    def pick(new, old):
        return jnp.where(fresh.reshape(fresh.shape + (1,) * (new.ndim - 1)), new, old)

    return jax.tree.map(pick, new, old)


@jax.jit
def _rows(tree, rows):
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def _key(key, lane: Lane, t) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, lane.id), lane.item), t)


def _problem(attack, model, budget, lane: Lane) -> Problem:
    return Problem(view(model, attack.access), budget, attack.goal, lane.x, lane.y, lane.target, lane.item)


def _placed(model: Classifier, runtime: Runtime, width: int) -> tuple[Classifier, Callable]:
    """The model on every device of the mesh, and a function that lays arrays [W, ...] over them."""
    mesh = runtime.mesh
    if mesh.size == 1 or width % mesh.size:
        return model, lambda tree: jax.device_put(tree, mesh.devices.flat[0])
    copy = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    return jax.device_put(model, copy), lambda tree: jax.device_put(tree, split)


def _by_slices(function: Callable, arrays: list[np.ndarray], width: int) -> Any:
    """Applies a function to slices of `width` rows, the last one padded with its own last row; joins on the host."""
    parts = []
    for start in range(0, len(arrays[0]), width):
        rows = np.minimum(np.arange(start, start + width), len(arrays[0]) - 1)
        parts.append(jax.tree.map(np.asarray, function(*(a[rows] for a in arrays))))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def _power_of_two(count: int) -> int:
    return 1 << max(count - 1, 0).bit_length()
