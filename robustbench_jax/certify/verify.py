"""verify: is there a counterexample of a specification? An attack, linear bounds, then branch and bound.

References: as attack, counterexamples.py; as bounds, `crown` and `branch_and_bound`. The proof is about the network in
exact arithmetic on boxes that are rounded outwards; bounds are computed in float32 and must exceed SLACK of the size of
what they bound. A counterexample is one of the deployed float32 model.
Shapes: D input shape, P cases, B boxes, K rows, C classes.
"""

import math
import time
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.certify import bounding, counterexamples, halving
from robustbench_jax.certify.bounded import CLOSE
from robustbench_jax.certify.halving import Halving
from robustbench_jax.certify.reduction import Reduction
from robustbench_jax.certify.search import LARGEST, Problems, Search
from robustbench_jax.certify.vnnlib import Case, Specification
from robustbench_jax.keys import stream
from robustbench_jax.ops.bounds import interval
from robustbench_jax.ops.bounds.regions import boxed
from robustbench_jax.ops.judge import predict
from robustbench_jax.ops.runtime import Runtime, power_of_two
from robustbench_jax.types import Classifier, UserError, require_positive

SLACK = CLOSE / 10
ATTACK = 0.2  # part of the time that the attack before any bound may take
STEPS, INNER_STEPS = 5, 4  # of ascent in branch and bound: in a domain, in a layer before


@dataclass(frozen=True)
class Verdict:
    """status: "unsat" (no input is a counterexample: the property holds), "sat" (with one), or "timeout" (undecided).

    counterexample: float32[D], None where the status is not "sat"; logits: float32[C] that the model gives it. lower
    float64[P]: what is proved of max_k(rows[k] . logits + offsets[k]) in each case: none has a counterexample where it
    is positive; inf for an empty box, -inf where nothing is proved. seconds: of wall time, compilation included.
    """

    status: str
    counterexample: np.ndarray | None
    logits: np.ndarray | None
    lower: np.ndarray
    seconds: float


def verify(
    key: jax.Array,
    model: Classifier,
    specification: Specification,
    *,
    shape: tuple[int, ...],
    timeout: float,
    runtime: Runtime = Runtime(),
) -> Verdict:
    """The verdict about a model of images `shape`, whose entries in C order are the specification's inputs.

    timeout: seconds; what is compiled is not interrupted. Raises UserError where the numbers of inputs or outputs do
    not fit, for randomised models, and for operations without bounds where the attack fails.
    """
    began = time.perf_counter()
    _require(model, specification, shape, timeout)
    live = [i for i, case in enumerate(specification.cases) if not case.empty]
    cases = [specification.cases[i] for i in live]
    task = _Task(model, cases, shape, began + timeout, runtime)
    x = counterexamples.search(stream(key, "verify"), model, cases, shape, began + ATTACK * timeout, runtime)
    if x is None:
        x = task.run()
    lower = np.full(len(specification.cases), np.inf)
    lower[live] = task.lower
    status = "sat" if x is not None else "unsat" if task.refuted.all() else "timeout"
    logits = None if x is None else predict(model, x[None], runtime)[0]
    return Verdict(status, x, logits, lower, time.perf_counter() - began)


class _Task:
    """Bounds of all cases, a batch of boxes at a time. lower float64[P], refuted bool[P]: what is proved so far."""

    def __init__(self, model, cases: list[Case], shape: tuple[int, ...], deadline: float, runtime: Runtime):
        self.model, self.cases, self.shape, self.deadline, self.runtime = model, cases, shape, deadline, runtime
        self.lower, self.refuted = np.full(len(cases), -np.inf), np.zeros(len(cases), bool)

    def run(self) -> np.ndarray | None:
        """Proves what it can; a counterexample, if it meets one."""
        alike: dict[tuple, list[int]] = {}
        for number, case in enumerate(self.cases):
            alike.setdefault((case.low.tobytes(), case.high.tobytes()), []).append(number)
        boxes, width = list(alike.values()), self.runtime.batch
        if boxes and halving.suits(form := bounding.structure(self.model, self.shape)):
            with jax.default_matmul_precision("highest"):
                return self.halve(form)
        for at in range(0, len(boxes), width):
            if time.perf_counter() >= self.deadline:
                return None
            with jax.default_matmul_precision("highest"):
                x = self.settle(boxes[at : at + width])
            if x is not None:
                return x
        return None

    def settle(self, boxes: list[list[int]]) -> np.ndarray | None:
        """One batch of boxes, each with the numbers of its cases."""
        padded = np.resize(np.arange(len(boxes)), power_of_two(len(boxes)))
        corners = [counterexamples.outwards(self.cases[boxes[i][0]]) for i in padded]
        low, high = (jnp.asarray(np.stack(side)).reshape(-1, *self.shape) for side in zip(*corners, strict=True))
        regions = jax.vmap(boxed)(low, high)
        slack = self.slack(boxes, np.asarray(regions.x))
        known = self.bound(boxes, padded, regions, slack)
        left = [i for i, numbers in enumerate(boxes) if not self.refuted[numbers].all()]
        if not left or time.perf_counter() >= self.deadline:
            return None
        those = np.resize(left, power_of_two(len(left)))
        regions, known = jax.tree.map(lambda leaf: jnp.asarray(leaf)[those], (regions, known))
        known = bounding.crown(self.model, regions, known, tighter=True, steps=INNER_STEPS)
        return self.split([boxes[i] for i in left], regions, known, slack)

    def slack(self, boxes: list[list[int]], middle: np.ndarray) -> np.ndarray:
        """[P]: what a bound must exceed, for the cases of these boxes."""
        logits = np.abs(predict(self.model, middle[: len(boxes)], self.runtime)).max(-1)
        slack = np.zeros(len(self.cases))
        for box, numbers in enumerate(boxes):
            for number in numbers:
                case = self.cases[number]
                size = np.abs(case.rows).sum(-1) * logits[box] + np.abs(case.offsets)
                slack[number] = SLACK * max(1.0, size.max(initial=0.0))
        return slack

    def bound(self, boxes: list[list[int]], padded: np.ndarray, regions, slack: np.ndarray) -> bounding.Known:
        """Intervals and CROWN for all cases of the boxes; the better of both bounds of each node."""
        rows, offsets = self.halfspaces([i for numbers in boxes for i in numbers])
        most, first = max(map(len, boxes)), np.cumsum([0, *map(len, boxes)])
        table = np.zeros((len(boxes), most, *rows.shape[1:]), np.float32)
        for box, numbers in enumerate(boxes):
            table[box, : len(numbers)] = rows[first[box] : first[box + 1]]
        flat = jnp.asarray(table.reshape(len(boxes), -1, rows.shape[-1])[padded])
        known = bounding.first_layers(self.model, regions)
        plain = bounding.crown(self.model, regions, known)
        found = np.fmax(
            bounding.interval_margins(self.model, regions, flat, known),
            bounding.linear_margins(self.model, regions, flat, plain),
        ).reshape(len(padded), most, -1)
        for box, numbers in enumerate(boxes):
            values = found[box, : len(numbers)].astype(np.float64) + offsets[first[box] : first[box + 1]]
            self.note(np.array(numbers), values.max(-1), slack)
        return {number: interval.intersected(known[number], plain[number]) for number in known}

    def halfspaces(self, numbers) -> tuple[np.ndarray, np.ndarray]:
        return counterexamples.with_means(*counterexamples.halfspaces([self.cases[i] for i in numbers]))

    def note(self, numbers: np.ndarray, lower: np.ndarray, slack: np.ndarray) -> None:
        self.lower[numbers] = np.maximum(self.lower[numbers], lower)
        self.refuted[numbers] |= lower > slack[numbers]

    def split(self, boxes: list[list[int]], regions, known: bounding.Known, slack: np.ndarray) -> np.ndarray | None:
        """Branch and bound of what is left of these boxes, all of them in turn while time is left."""
        waiting = [(box, [i for i in numbers if not self.refuted[i]]) for box, numbers in enumerate(boxes)]
        searches: list[tuple[np.ndarray, Search]] = []
        while (waiting or searches) and time.perf_counter() < self.deadline:
            if waiting:
                box, left = waiting.pop()
                region, own = jax.tree.map(lambda leaf, at=box: jnp.asarray(leaf)[at], (regions, known))
                reduction = Reduction(self.model, region, own)
                if reduction.entries > LARGEST:
                    continue
                numbers = np.array(left)
                asked = counterexamples.halfspaces([self.cases[i] for i in numbers])
                search = Search(self.model, reduction, Problems(*asked, slack[numbers]), STEPS)
                search.begin()
                searches.append((numbers, search))
            else:
                for _, search in searches:
                    search.split()
            for numbers, search in searches:
                x = self.learnt(numbers, search)
                if x is not None:
                    return x
            searches = [(numbers, search) for numbers, search in searches if search.open]
        return None

    def halve(self, form: bounding.Structure) -> np.ndarray | None:
        """Halves the boxes of all cases for as long as time is left."""
        low, high = (np.stack(side) for side in zip(*map(counterexamples.outwards, self.cases), strict=True))
        middle = (low / 2 + high / 2).reshape(-1, *self.shape)
        numbers = np.arange(len(self.cases))
        slack = self.slack([[number] for number in numbers], middle)
        search = Halving(self.model, form, low, high, *counterexamples.halfspaces(self.cases), slack)
        while search.open and time.perf_counter() < self.deadline:
            search.split()
        return self.learnt(numbers, search)

    def learnt(self, numbers: np.ndarray, search: Search | Halving) -> np.ndarray | None:
        """Notes what a search of these cases has proved; its counterexample, if it is one."""
        proved = search.proved
        self.lower[numbers] = np.maximum(self.lower[numbers], search.lower)
        self.refuted[numbers] |= proved
        if not search.attacked:
            return None
        return counterexamples.judged(self.model, self.cases[numbers[search.which]], search.x_adv, self.runtime)


def _require(model: Classifier, specification: Specification, shape: tuple[int, ...], timeout: float) -> None:
    require_positive("verify", timeout=timeout)
    if model.stochastic:
        raise UserError("verify: the model is randomised; specifications are about deterministic ones")
    if math.prod(shape) != specification.inputs:
        raise UserError(f"the specification has {specification.inputs} inputs, the model {math.prod(shape)}")
    outputs = jax.eval_shape(model, jax.ShapeDtypeStruct(shape, np.float32)).shape[-1]
    if outputs != specification.outputs:
        raise UserError(f"the specification has {specification.outputs} outputs, the model {outputs}")
