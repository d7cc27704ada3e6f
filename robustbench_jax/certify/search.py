"""Branch and bound of the problems of one region: open domains in a pool, bounded in batches.

A problem asks whether max_k(rows[k] . logits + offsets[k]) > 0 on all of the region. The worst domains are split where
that helps their bounds most, in two or, while they are few, in as many as fill a batch; each part goes on from the
slopes and multipliers of what it is part of. What is proved is dropped; when nothing is left all problems are proved.
The points where linear bounds are least are tried on the model: one of them may be a counterexample.
Shapes: P problems, K rows, C classes, D input shape, N neurons, W columns, B domains of one call.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.certify import descent
from robustbench_jax.certify.pool import Domains, Pool
from robustbench_jax.certify.reduction import Reduction
from robustbench_jax.ops.bounds import reduced
from robustbench_jax.ops.bounds.reduced import Reduced, Weights
from robustbench_jax.ops.runtime import power_of_two
from robustbench_jax.types import Classifier, record

NARROW, WIDTH = 16, 256  # domains that are bounded in one call: each form is compiled once
TRIED = 4  # neurons that may be split, in each domain
ROOT_STEPS = 60
ROOT_RATE, RATE = 0.25, 0.1  # first step of the ascent, on slopes from 0 to 1
PATIENCE = 10  # times the steps for a domain whose ReLUs are all decided
FEWEST = 16  # problems that a call has room for
POINTS, DESCENT = 8, 10  # points of each call that are tried as counterexamples, and steps from each
LARGEST = 2**27  # entries of the matrices of a region that is searched


@record
class Problems:
    """What is asked about one region. rows [P, K, C]; offsets [P, K]; slack float[P]: what a bound must exceed."""

    rows: np.ndarray
    offsets: np.ndarray
    slack: np.ndarray


class Search:
    """The state of a search. lower float[P]: what is proved of each problem so far, of a domain that cannot be split
    as well; attacked: whether a problem has a counterexample, x_adv [D], `which` says which; domains: how many were
    bounded; seconds: spent, compilation left out.
    """

    def __init__(self, model: Classifier, reduction: Reduction, problems: Problems, steps: int):
        self.model, self.problems, self.steps = model, problems, steps
        self.net = reduction.reduced()
        self.shape = reduction.region.low.shape
        self.regions = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (POINTS, *leaf.shape)), reduction.region)
        count, each, classes = problems.rows.shape
        rows = reduction.rows(reduction.form.output, problems.rows.reshape(-1, classes), len(reduction.groups))
        rows[:, 0] += problems.offsets.ravel()
        filled = power_of_two(max(count, FEWEST))
        self.rows = jnp.asarray(np.resize(rows.reshape(count, each, -1), (filled, each, rows.shape[1])))
        self.floor = np.full(count, np.inf)  # of domains that cannot be split
        self.attacked, self.x_adv, self.which = False, np.zeros(self.shape, np.float32), -1
        self.domains, self.seconds = np.zeros(count, int), 0.0
        self.pool = Pool(len(self.net.low), each)

    def begin(self) -> None:
        """Bounds the roots, for each problem from the best of its rows."""
        began, before = time.perf_counter(), _programs()
        count, each, _ = self.problems.rows.shape
        neurons = len(self.net.low)
        problem = np.repeat(np.arange(count, dtype=np.int32), each)
        slopes = np.asarray(self.net.high > -self.net.low, np.float32)
        alpha, nothing = np.tile(slopes, (len(problem), 1)), np.zeros((len(problem), neurons), np.float32)
        mix = np.tile(np.eye(each, dtype=np.float32), (count, 1))
        sign = np.zeros((len(problem), neurons), np.int8)
        lower = np.full(len(problem), -np.inf, np.float32)
        if each > 1:
            lower = self.bounded(lower, problem, sign, Weights(alpha, nothing, mix), 0)[0]
        best = lower.reshape(count, each).argmax(-1) + each * np.arange(count)
        start = Weights(alpha[best], nothing[best], mix[best])
        self.bound(np.full(count, -np.inf), problem[best], sign[best], start, ROOT_STEPS, ROOT_RATE)
        if _programs() == before:
            self.seconds += time.perf_counter() - began

    @property
    def open(self) -> bool:
        """Whether all problems may still be proved."""
        return len(self.pool) > 0 and not self.attacked and bool((self.floor == np.inf).all())

    @property
    def lower(self) -> np.ndarray:
        """float[P]; of a problem that is proved, at least its slack; of one with a counterexample -inf."""
        found = np.minimum(self.floor, self.pool.least(len(self.floor)))
        found = np.where(found == np.inf, self.problems.slack, found)
        if self.attacked:
            found[self.which] = -np.inf
        return found

    @property
    def proved(self) -> np.ndarray:
        """bool[P]."""
        proved = np.minimum(self.floor, self.pool.least(len(self.floor))) == np.inf
        if self.attacked:
            proved[self.which] = False
        return proved

    def split(self) -> None:
        """Splits the worst domains, as many as one call takes."""
        began, before = time.perf_counter(), _programs()
        batch = self.pool.worst(WIDTH // 2)
        which, neurons = self.best(batch), len(self.net.low)
        whole = which[:, 0] == neurons
        if whole.any():
            self.last(batch.taken(whole))
        parts, which = batch.taken(~whole), which[~whole]
        if len(which):
            for level in range(min((WIDTH // len(which)).bit_length() - 1, which.shape[1])):
                at = which[:, level]
                parts = parts.halved(at, at < neurons)
                which = np.concatenate([which, which[at < neurons]])
            self.bound(*parts, self.steps, RATE)
        if _programs() == before:
            self.seconds += time.perf_counter() - began

    def best(self, batch: Domains) -> np.ndarray:
        """int [B, tried]: the neurons to split, the best first, N for none."""
        count, neurons = len(batch.lower), len(self.net.low)
        if not neurons:
            return np.zeros((count, 1), int)
        filled = batch.filled(NARROW // 2 if count <= NARROW // 2 else WIDTH // 2)
        which = chosen(self.net, self.rows, filled.problem, filled.sign, filled.weights, self.enough(filled.problem))
        return np.asarray(which)[:count]

    def last(self, batch: Domains) -> None:
        """Bounds domains that cannot be split."""
        lower, *_ = self.bounded(*batch, PATIENCE * self.steps, ROOT_RATE)
        left = ~(lower > self.problems.slack[batch.problem])
        np.minimum.at(self.floor, batch.problem[left], lower[left])

    def enough(self, problem: np.ndarray) -> np.ndarray:
        return self.problems.slack[problem].astype(np.float32)

    def bound(self, lower, problem, sign, weights: Weights, steps: int, rate: float) -> None:
        """Bounds domains, drops what is proved, keeps the rest."""
        lower, weights, x = self.bounded(lower, problem, sign, weights, steps, rate)
        left = np.flatnonzero(~(lower > self.problems.slack[problem]))
        self.pool.add(lower[left], problem[left], sign[left], jax.tree.map(lambda leaf: leaf[left], weights))
        worst = left[np.argsort(lower[left])[:POINTS]]
        if len(worst):
            self.tried(problem[worst], x[worst])

    def bounded(self, lower, problem, sign, weights: Weights, steps: int, rate: float = RATE):
        """(lower [B], weights, x [B, D]), on the host; never below the bounds [B] given."""
        found = []
        for at in range(0, len(problem), WIDTH):
            part = np.arange(at, min(at + WIDTH, len(problem)))
            filled = np.resize(part, NARROW if len(part) <= NARROW else WIDTH)
            of, signs, start = taken((problem, sign, weights), filled)
            out = ascended(self.net, self.rows, of, signs, start, self.enough(of), steps, rate)
            found.append(taken(out, np.arange(len(part))))
        better, weights, x = jax.tree.map(lambda *leaves: np.concatenate(leaves), *found)
        np.add.at(self.domains, problem, 1)
        return np.fmax(np.asarray(lower, np.float32), better), weights, x

    def tried(self, problem: np.ndarray, x: np.ndarray) -> None:
        """Tries points [B, D] on the model, with a short descent from each."""
        problem, x = fill(problem, POINTS), jnp.asarray(fill(x, POINTS).reshape(POINTS, *self.shape))
        rows, offsets = self.problems.rows[problem], self.problems.offsets[problem]
        value, x = descent.descended(self.model, self.regions, x, rows, offsets, DESCENT)
        if value.min() < 0:
            at = int(value.argmin())
            self.attacked, self.which, self.x_adv = True, int(problem[at]), x[at]


def _programs() -> int:
    """How many have been compiled."""
    return ascended._cache_size() + chosen._cache_size() + descent.step._cache_size()


def taken(tree, which: np.ndarray):
    """These entries of all arrays, on the host."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[which], tree)


def fill(leaf: np.ndarray, width: int) -> np.ndarray:
    """The first axis repeated until it is as long."""
    return np.resize(leaf, (width, *leaf.shape[1:])) if len(leaf) < width else leaf


@jax.jit
def ascended(net: Reduced, rows, problem, sign, weights: Weights, enough, steps, rate):
    weights = Weights(*(leaf.astype(rows.dtype) for leaf in weights))
    lower, weights, last = reduced.ascended(net, rows, problem, sign, reduced.feasible(weights), enough, steps, rate)
    return lower, weights, jax.vmap(net.region.lowest)(last.at_input)


@jax.jit
def chosen(net: Reduced, rows, problem, sign, weights: Weights, enough):
    weights = reduced.feasible(Weights(*(leaf.astype(rows.dtype) for leaf in weights)))
    own = reduced.mixed(rows, problem, weights.mix)
    return reduced.chosen(net, own, sign, weights.alpha, weights.beta, enough, min(TRIED, sign.shape[1]))
