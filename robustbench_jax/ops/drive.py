"""The driver: turns a kernel written for one example into a fast program over many.

Work items (restarts, target classes) wait in a queue (ops/ledger.py) for a slot in a bucket (ops/bucket.py). The
attack proposes, the judge decides (ops/judge.py): what leaves the bucket is projected once more and given to the
deployed model. What an example gets depends on its id, not on its neighbours, the width or the devices.
Shapes: N examples, D input shape.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.keys import stream
from robustbench_jax.ops import bucket
from robustbench_jax.ops.bucket import Bucket, Finished
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.judge import judge
from robustbench_jax.ops.ledger import Ledger
from robustbench_jax.ops.runtime import Runtime, on_cpu
from robustbench_jax.types import Classifier, EvasionAttack

Images = tuple[np.ndarray, np.ndarray]  # x [N, D], y [N]


@dataclass(frozen=True)
class Attacked:
    """What an attack did to N examples, on the host.

    success bool[N] (judged), x_adv float32[N, D], size float32[N] (of the perturbation, in the budget's measure),
    broken_by int[N] (stage of a cascade, -1 for none), forwards, gradients and vanished int[N]; stages: a line each.
    """

    success: np.ndarray
    x_adv: np.ndarray
    size: np.ndarray
    broken_by: np.ndarray
    forwards: np.ndarray
    gradients: np.ndarray
    vanished: np.ndarray
    stages: tuple["Stage", ...] = ()


@dataclass(frozen=True)
class Stage:
    """One attack of a cascade: how many examples it saw, how many it broke, what that cost."""

    attack: str
    access: str
    attacked: int
    broken: int
    forwards: int
    gradients: int
    seconds: float


def drive(
    key: jax.Array,
    attack: EvasionAttack,
    model: Classifier,
    budget: Any,
    x: np.ndarray,
    y: np.ndarray,
    *,
    ids: np.ndarray | None = None,
    pool: Images | None = None,
    runtime: Runtime = Runtime(),
    report: Callable[[int], None] = lambda settled: None,
) -> Attacked:
    """Attacks x [N, D] (uint8, or float32 in [0, 1]) with labels y [N]. The key is consumed.

    A cascade's stages run in order, each on the survivors of the ones before. pool: images that an attack may learn
    from beforehand (None: the attacked ones). `report` is called with the number of examples whose verdict is known.
    """
    ids = np.arange(len(y)) if ids is None else np.asarray(ids)
    attack = attack.against(model, x.shape[1:])
    stages, lines = list(attack.stages(budget)), []
    found = _untouched(x, len(y))
    while len(lines) < len(stages) and not found.success.all():
        number, left = len(lines), np.flatnonzero(~found.success)
        stage, last = stages[number], number == len(stages) - 1
        began, own = time.perf_counter(), stream(key, f"stage {number}")
        if stage.prepares:
            seen = (x[left], y[left]) if pool is None else pool
            stage = stage.prepare(stream(own, "prepare"), model, budget, *seen, runtime)
        settled = partial(_settled, report, len(y) - len(left), last)
        got = _run(own, stage, model, budget, x[left], y[left], ids[left], runtime, settled)
        _enter(found, left, got, number)
        totals = (len(left), int(got.success.sum()), int(got.forwards.sum()), int(got.gradients.sum()))
        lines.append(Stage(stage.called, stage.access, *totals, time.perf_counter() - began))
        stages += attack.follow(budget, tuple(lines)) if last else ()
    report(len(y))
    return Attacked(**vars(found) | {"stages": tuple(lines)})


def attack_batch(
    key: jax.Array, attack: EvasionAttack, model: Classifier, budget: Any, x: jax.Array, y: jax.Array, ids: jax.Array
) -> jax.Array:
    """x_adv [B, D] of the attack's first work item, without queue or judge: for training on adversarial examples."""
    lanes, states = bucket.start(key, attack, model, budget, x, y, ids, jnp.zeros(len(y), jnp.int32))
    if on_cpu():
        for _ in range(int(attack.steps)):
            states, _ = bucket.step(key, attack, model, budget, lanes, states)
    else:
        states, _ = bucket.steps(key, attack, model, budget, lanes, states, int(attack.steps))
    return _render(budget, lanes.x, states.x_adv)


def _untouched(x: np.ndarray, count: int) -> Attacked:
    none = [np.zeros(count, np.int64) for _ in range(3)]
    return Attacked(np.zeros(count, bool), as_unit(x), np.full(count, np.nan, np.float32), np.full(count, -1), *none)


def _enter(found: Attacked, rows: np.ndarray, got: Attacked, number: int) -> None:
    found.success[rows], found.x_adv[rows], found.size[rows] = got.success, got.x_adv, got.size
    found.broken_by[rows[got.success]] = number
    for name in ("forwards", "gradients", "vanished"):
        getattr(found, name)[rows] += getattr(got, name)


def _settled(report: Callable, known: int, last: bool, broken: int, finished: int) -> None:
    report(known + (finished if last else broken))


def _run(key, attack, model, budget, x, y, ids, runtime: Runtime, report) -> Attacked:
    """One stage: the queue of one attack over N examples."""
    ledger = Ledger(len(y), int(attack.items), smallest=attack.minimal)
    found = _untouched(x, len(y))
    width = runtime.fit(len(y) * ledger.items)
    slots = Bucket(key, attack, model, budget, width, runtime)
    waiting: list[Finished] = []
    while ledger.pending or slots.active.any() or waiting:
        if slots.free >= max(1, slots.width // 4) and ledger.pending:
            slots.fill(ledger.take(slots.free), x, y, ids)
        waiting += slots.advance()
        idle = not slots.active.any()
        if waiting and (idle or (ledger.items > 1 and not ledger.smallest) or len(waiting) >= width):
            _settle(ledger, waiting, model, budget, attack.goal, x, y, found, runtime)
            waiting = []
            slots.drop(ledger)
            report(int(ledger.broken.sum()), ledger.finished)
        if not ledger.pending:
            slots.shrink()
    counts = {name: ledger.spent(name) for name in ("forwards", "gradients", "vanished")}
    return Attacked(**vars(found) | counts | {"success": ledger.broken})


def _settle(ledger: Ledger, waiting: list[Finished], model, budget, goal, x, y, found: Attacked, runtime) -> None:
    examples = np.array([f.example for f in waiting])
    proposed, target = np.stack([f.x_adv for f in waiting]), np.array([f.target for f in waiting])
    judged = judge(model, budget, goal, x[examples], proposed, y[examples], target, runtime)
    for row, f in enumerate(waiting):
        size, success = float(judged.size[row]), bool(judged.success[row])
        if ledger.settle(f.item, f.example, success, size, f.forwards, f.gradients, f.vanished):
            found.x_adv[f.example], found.size[f.example] = judged.x_adv[row], size


@jax.jit
def _render(budget, x, z):
    return jax.vmap(budget.render)(x, z)
