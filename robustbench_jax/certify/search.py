"""Branch and bound: problems of many images in one queue, their domains bounded in batches.

A problem asks whether max_k(rows[k] . logits + offsets[k]) > 0 on all of a region. Its worst domain is split where the
lines cost most, both halves are bounded, and what is proved is dropped; when nothing is left the problem is proved. The
point where a domain's linear bound is least is tried on the model: it may be a counterexample. Problems of one group
(the classes of one image) share a time limit, and none is pursued when one of them is lost.
Shapes: P problems, K rows, C classes, D input shape, B domains of one call, L splits.
"""

import heapq
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.certify.bounding import RATE, Known
from robustbench_jax.ops.bounds import domains, slopes
from robustbench_jax.ops.bounds.graph import read
from robustbench_jax.ops.bounds.regions import Region
from robustbench_jax.ops.runtime import power_of_two
from robustbench_jax.types import Classifier, record

NARROW, WIDTH = 16, 128  # domains that are bounded in one call: each form is compiled once
SHORTEST, LONGER = 16, 4  # splits that a call has room for: so many, or a power of LONGER times that
ROOT_STEPS = 40
DESCENT = 50  # steps of an attack on each problem before it is searched
PATIENCE = 8  # times the steps for a domain whose ReLUs are all decided


@record
class Problems:
    """region [I]: of each image; known: its bounds; image int[P]; rows [P, K, C]; offsets [P, K]."""

    region: Region
    known: Known
    image: np.ndarray
    rows: np.ndarray
    offsets: np.ndarray


@dataclass
class Proof:
    """lower float[P]: what is proved so far; proved bool[P]; attacked bool[P] with x_adv float[P, D]; seconds float[P]:
    each problem's share; domains int[P]: how many were bounded.
    """

    lower: np.ndarray
    proved: np.ndarray
    attacked: np.ndarray
    x_adv: np.ndarray
    seconds: np.ndarray
    domains: np.ndarray

    @classmethod
    def of(cls, lower: np.ndarray, proved: np.ndarray, shape: tuple[int, ...]) -> "Proof":
        """Before any search, for points of this shape."""
        count = len(lower)
        nothing = np.zeros((count, *shape), np.float32)
        return cls(lower, proved, np.zeros(count, bool), nothing, np.zeros(count), np.zeros(count, int))


@dataclass(order=True)
class Domain:
    """One open domain; the worst come first."""

    lower: float
    number: int
    problem: int = field(compare=False)
    which: tuple[int, ...] = field(compare=False)
    how: tuple[int, ...] = field(compare=False)
    split: int = field(compare=False)


class Search:
    """The state of a search: heaps of open domains by problem."""

    def __init__(self, model: Classifier, problems: Problems, slack: np.ndarray, steps: int):
        self.model, self.problems, self.slack, self.steps = model, problems, slack, steps
        count = len(problems.image)
        shape = problems.region.low.shape[1:]
        self.proof = Proof.of(np.full(count, -np.inf), np.zeros(count, bool), shape)
        self.heaps: list[list[Domain]] = [[] for _ in range(count)]
        self.numbers = itertools.count()
        self.stuck = np.zeros(count, bool)
        self.alpha = None

    def begin(self) -> None:
        """Bounds the roots; their slopes are where those of all their domains begin."""
        padded = np.resize(np.arange(len(self.heaps)), power_of_two(len(self.heaps)))
        self.alpha = _root_slopes(self.model, self.problems, padded, ROOT_STEPS)
        value, x = (np.asarray(leaf)[: len(self.heaps)] for leaf in _descended(self.model, self.problems, padded))
        self.proof.attacked, self.proof.x_adv = value <= 0, np.array(x)
        roots = [Domain(-np.inf, 0, problem, (), (), -1) for problem in np.flatnonzero(value > 0)]
        for at in range(0, len(roots), WIDTH):
            self.bound(roots[at : at + WIDTH], self.steps)

    def bound(self, batch: list[Domain], steps: int) -> None:
        """Bounds domains, drops what is proved, queues the rest."""
        started = time.perf_counter()
        count, longest = len(batch), max(len(d.which) for d in batch)
        width, length = NARROW if count <= NARROW else WIDTH, SHORTEST
        while length < longest:
            length *= LONGER
        which, how = np.full((width, length), -1, np.int32), np.zeros((width, length), np.float32)
        for row, domain in enumerate(batch):
            which[row, : len(domain.which)], how[row, : len(domain.how)] = domain.which, domain.how
        problem = np.resize([d.problem for d in batch], width)
        compiled = _bounded._cache_size()
        found, value = _bounded(self.model, self.problems, self.alpha, problem, which, how, steps)
        found, value = jax.tree.map(lambda leaf: np.asarray(leaf)[:count], (found, value))
        share = (time.perf_counter() - started) / count if _bounded._cache_size() == compiled else 0.0
        for row, domain in enumerate(batch):
            self.settle(domain, float(found.lower[row]), int(found.split[row]), steps)
            self.proof.seconds[domain.problem] += share
            self.proof.domains[domain.problem] += 1
            if value[row] <= 0 and not self.proof.attacked[domain.problem]:
                self.proof.attacked[domain.problem] = True
                self.proof.x_adv[domain.problem] = found.x[row]

    def settle(self, domain: Domain, lower: float, split: int, steps: int) -> None:
        lower = max(domain.lower, lower)  # in this order: what is no number proves nothing
        if lower > self.slack[domain.problem]:
            return
        if split >= 0:
            again = Domain(lower, next(self.numbers), domain.problem, domain.which, domain.how, split)
            heapq.heappush(self.heaps[domain.problem], again)
        elif steps < PATIENCE * self.steps:
            self.bound([Domain(lower, 0, domain.problem, domain.which, domain.how, -1)], PATIENCE * self.steps)
        else:
            self.stuck[domain.problem] = True

    def open(self) -> list[int]:
        """Problems that may still be proved."""
        lost = self.proof.attacked | self.stuck
        return [p for p, heap in enumerate(self.heaps) if heap and not lost[p]]

    def split(self, problems: list[int]) -> None:
        """Splits the worst domains of these problems, in turn, as many as one call takes."""
        halves: list[Domain] = []
        while len(halves) < WIDTH and any(self.heaps[p] for p in problems):
            for p in problems:
                if self.heaps[p] and len(halves) < WIDTH:
                    worst = heapq.heappop(self.heaps[p])
                    halves += [
                        Domain(worst.lower, 0, p, (*worst.which, worst.split), (*worst.how, side), -1)
                        for side in (-1, 1)
                    ]
        self.bound(halves, self.steps)

    def result(self) -> Proof:
        for p, heap in enumerate(self.heaps):
            lost = self.stuck[p] or self.proof.attacked[p]
            self.proof.proved[p] = not heap and not lost
            self.proof.lower[p] = -np.inf if lost else heap[0].lower if heap else self.slack[p]
        return self.proof


def prove(
    model: Classifier,
    problems: Problems,
    *,
    group: np.ndarray,
    timeout: float,
    limit: int,
    steps: int,
    slack: np.ndarray,
    report: Callable[[np.ndarray], None] = lambda open_: None,
) -> Proof:
    """Searches until every problem is proved, lost, or out of time or domains.

    group int[P]: problems of one image; timeout: seconds of a group; limit: domains of a problem; slack float[P]: what
    a bound must exceed. report is told which problems are open.
    """
    search = Search(model, problems, slack, steps)
    search.begin()
    while True:
        proof, alive = search.proof, search.open()
        lost = set(group[proof.attacked | search.stuck | (proof.domains > limit)])
        spent = np.bincount(group, proof.seconds)
        alive = [p for p in alive if group[p] not in lost and spent[group[p]] < timeout]
        report(np.array(alive, int))
        if not alive:
            return search.result()
        search.split(alive)


@jax.jit
def _root_slopes(model: Classifier, problems: Problems, which: jax.Array, steps: int) -> dict[int, jax.Array]:
    """The slopes [P, K, S] that are best in the whole region of each problem."""

    def one(problem):
        image = problems.image[problem]
        region, known = jax.tree.map(lambda leaf: leaf[image], (problems.region, problems.known))
        graph = read(model, region.low)
        rows = problems.rows[problem]
        _, weights = slopes.optimised(graph, graph.output, rows, known, region, steps, RATE)
        return weights["alpha"]

    problems = jax.tree.map(jnp.asarray, problems)
    return jax.lax.map(one, which, batch_size=32)


@jax.jit
def _descended(model: Classifier, problems: Problems, which: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(least value [P], its point [P, D]) that gradient descent finds from the middle of each problem's region."""
    problems = jax.tree.map(jnp.asarray, problems)

    def one(problem):
        region = jax.tree.map(lambda leaf: leaf[problems.image[problem]], problems.region)

        def value(x):
            return jnp.max(problems.rows[problem] @ model(x) + problems.offsets[problem])

        def step(t, state):
            x, least, best = state
            found, gradient = jax.value_and_grad(value)(x)
            least, best = jax.tree.map(lambda new, old: jnp.where(found < least, new, old), (found, x), (least, best))
            length = (region.high - region.low) * (0.25 * (1 - t / DESCENT) + 0.01)
            return region.inside(x - length * jnp.sign(gradient)), least, best

        x, least, best = jax.lax.fori_loop(0, DESCENT, step, (region.x, jnp.inf, region.x))
        last = value(x)
        return jnp.minimum(last, least), jnp.where(last < least, x, best)

    return jax.vmap(one)(which)


@jax.jit
def _bounded(model: Classifier, problems: Problems, alpha, problem, which, how, steps):
    """(domains.Bounded, the problem's value at its point) of a batch of domains."""
    problems = jax.tree.map(jnp.asarray, problems)

    def one(problem, which, how):
        image = problems.image[problem]
        region, known = jax.tree.map(lambda leaf: leaf[image], (problems.region, problems.known))
        rows, offsets = problems.rows[problem], problems.offsets[problem]
        start = jax.tree.map(lambda leaf: leaf[problem], alpha)
        graph = read(model, region.low)
        found = domains.bounded(graph, region, known, rows, offsets, start, which, how, steps, RATE / 2)
        return found, jnp.max(rows @ model(found.x) + offsets)

    return jax.vmap(one)(problem, which, how)
