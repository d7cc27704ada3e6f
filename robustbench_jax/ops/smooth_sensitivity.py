"""What the votes that there were cost, in a form that may be told: with noise of its smooth sensitivity.

References: Papernot et al., ICLR 2018, arXiv:1802.08908, appendix B: local sensitivities of Confident-GNMax
(Algorithms 3 to 5) and Theorem 23; Nissim, Raskhodnikova & Smith, STOC 2007. The Renyi cost of one answer is a function
of q, a bound on the probability of another answer; one vote more or less moves q within [lower(q), upper(q)]. The bound
at distance d is the largest change after d votes have changed, the smooth sensitivity the largest of
exp(-beta d) times it, and noise of that size times `noise` has a cost of its own, whatever the votes.
What it needs (conditions C5 and C6 of the paper) is checked in numbers for each sigma, order and number of classes.
Shapes: C classes, M teachers; q as its logarithm throughout; one order.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtri_exp

from robustbench_jax.ops.votes import answer_cost, log_answered, log_wrong, threshold_cost

GRID = 2000  # points at which a condition is looked at
ROUNDING = 1e-9


@dataclass(frozen=True)
class Release:
    """order, beta, noise: chosen before the votes are looked at. cost: of telling, in Renyi privacy at the order."""

    order: float
    beta: float
    noise: float

    @classmethod
    def at(cls, order: float, cost: float = 0.2) -> "Release":
        """With beta = 0.4 / order, and noise for which its own part of the cost is as given."""
        beta = 0.4 / order
        return cls(order, beta, math.sqrt(order * math.exp(2 * beta) / cost))

    @property
    def cost(self) -> float:
        """Theorem 23. ValueError for an order at which there is none."""
        if not 1 < self.order < 1 / (2 * self.beta):
            raise ValueError(f"order {self.order} must be above 1 and below 1 / (2 beta) = {1 / (2 * self.beta):g}")
        tail = -0.5 * math.log(1 - 2 * self.order * self.beta) + self.beta * self.order
        return self.order * math.exp(2 * self.beta) / self.noise**2 + tail / (self.order - 1)


def told_epsilon(
    rng: np.random.Generator,
    votes: np.ndarray,
    answered: np.ndarray,
    limits: tuple[int, int],
    threshold: float,
    sigma1: float,
    sigma2: float,
    delta: float,
) -> float | None:
    """Epsilon of these votes [Q, C] of the same number of teachers and of whether each was answered, bool [Q], with
    noise. The cost of telling it is in it. It is as often too low as too high. limits: (queries, answers) at most.
    None where there is no order at which the conditions hold.
    """
    teachers, classes = round(votes[0].sum()), votes.shape[1]
    chosen = _order(limits, sigma1, sigma2, classes, delta)
    if chosen is None:
        return None
    release = Release.at(chosen)
    order = np.array([release.order])
    cost = threshold_cost(log_answered(votes, threshold, sigma1), sigma1, order).sum()
    cost += answer_cost(log_wrong(votes[answered], sigma2), sigma2, order).sum()
    changes = np.zeros(teachers)
    for one, times in zip(*np.unique(votes, axis=0, return_counts=True), strict=True):
        changes += times * look_changes(one, teachers, threshold, sigma1, release.order)
    for one, times in zip(*np.unique(votes[answered], axis=0, return_counts=True), strict=True):
        changes += times * answer_changes(one, teachers, sigma2, release.order)
    noisy = cost + rng.normal() * release.noise * smooth(changes, release.beta)
    return float(noisy + release.cost + math.log(1 / delta) / (release.order - 1))


def _order(limits: tuple[int, int], sigma1: float, sigma2: float, classes: int, delta: float) -> float | None:
    """The best one whatever the votes, of those for which the conditions hold; no vote is looked at."""
    each = limits[0] / (2 * sigma1**2) + limits[1] / sigma2**2
    best = 1 + math.sqrt(math.log(1 / delta) / each)
    orders = [order for order in np.arange(1.5, 64.5, 0.5) if order <= max(best, 1.5)]
    return next((float(order) for order in orders[::-1] if holds(sigma2, classes, order)), None)


def smooth(changes: np.ndarray, beta: float) -> float:
    """The smooth sensitivity from bounds [M] on the change at distance 0, 1, ..."""
    return float(np.max(changes * np.exp(-beta * np.arange(len(changes)))))


def answer_changes(votes: np.ndarray, teachers: int, sigma: float, order: float) -> np.ndarray:
    """Bounds [M] on how much one vote changes the cost of an answer, at each distance from votes [C] (Algorithm 4)."""
    classes = len(votes)
    top = _useful(sigma, order)
    end = _lower(top, sigma, classes)
    largest = answer_change(np.array([end]), sigma, classes, order)[0]
    found = np.full(teachers, largest)
    path = _towards(np.asarray(votes, float), log_wrong(votes, sigma)[0] > top, teachers)
    log_q = log_wrong(path, sigma)
    if not end <= log_q[0] <= top:
        goes_on = log_q > top if log_q[0] > top else log_q < end
        steps = int(np.argmin(np.append(goes_on, False))) + 1  # the first that is within is on the way as well
        steps = min(steps, len(path), teachers)
        found[:steps] = answer_change(log_q[:steps], sigma, classes, order)
    return found


def answer_change(log_q: np.ndarray, sigma: float, classes: int, order: float) -> np.ndarray:
    """A bound on the change of the cost by one vote (Algorithm 3), of log_q [...]."""
    top = _useful(sigma, order)
    end = _lower(top, sigma, classes)
    log_q = np.where((end <= log_q) & (log_q <= top), end, log_q)
    now, more, less = (
        _cost(q, sigma, order) for q in (log_q, _upper(log_q, sigma, classes), _lower(log_q, sigma, classes))
    )
    return np.maximum(more - now, now - less)


def look_changes(votes: np.ndarray, teachers: int, threshold: float, sigma: float, order: float) -> np.ndarray:
    """Bounds [M] on how much one vote changes the cost of a look at the threshold, at each distance from votes [C]."""
    steps = np.abs(np.diff(_look_costs(teachers, threshold, sigma, order)))
    largest = np.maximum(np.append(steps, -np.inf), np.insert(steps, 0, -np.inf))  # of a step up or down from a count
    count, found = int(round(float(np.max(votes)))), np.zeros(teachers)
    for d in range(min(max(count, teachers - count), teachers)):
        there = [c for c in (count + d, count - d) if 0 <= c <= teachers]
        found[d] = max((largest[c] for c in there), default=0.0)
    return found


def holds(sigma: float, classes: int, order: float) -> bool:
    """Whether the cost rises with q up to where it is of use (C5), and so does its change by a vote (C6)."""
    top = _useful(sigma, order)
    log_q = np.linspace(max(8 * top, -700.0), top, GRID)
    rises = np.all(np.diff(_tight(log_q, sigma, order)) >= -ROUNDING)
    log_q = np.linspace(max(8 * top, -700.0), _lower(top, sigma, classes), GRID)
    change = _tight(np.minimum(_upper(log_q, sigma, classes), top), sigma, order) - _tight(log_q, sigma, order)
    return bool(rises and np.all(np.diff(change) >= -ROUNDING))


@lru_cache(maxsize=64)
def _look_costs(teachers: int, threshold: float, sigma: float, order: float) -> np.ndarray:
    """[M + 1]: by the largest count."""
    log_yes = log_answered(np.arange(teachers + 1.0)[:, None], threshold, sigma)
    return threshold_cost(log_yes, sigma, np.array([order]))[:, 0]


@lru_cache(maxsize=64)
def _useful(sigma: float, order: float) -> float:
    """The logarithm of the q from which on the cost that holds for all votes is no larger."""

    def worse(log_q: float) -> float:
        return float(_tight(np.array(log_q), sigma, order)) - order / sigma**2

    most = min(-((1 + 1 / sigma) ** 2), -(((order - 0.99) / sigma) ** 2), -1 / sigma**2)
    if worse(most) < 0:
        return most
    least = 2 * most
    while worse(least) > 0:
        least *= 1.5
    return float(brentq(worse, least, most))


def _cost(log_q: np.ndarray, sigma: float, order: float) -> np.ndarray:
    top = _useful(sigma, order)
    return np.where(log_q >= top, order / sigma**2, _tight(np.minimum(log_q, top), sigma, order))


def _tight(log_q: np.ndarray, sigma: float, order: float) -> np.ndarray:
    """Theorem 6 with the orders of Proposition 10, where its conditions hold."""
    two = sigma * np.sqrt(-log_q)
    one, e1, e2 = two + 1, (two + 1) / sigma**2, two / sigma**2
    right = np.log1p(-np.exp(log_q))
    a = (order - 1) * (right - np.log1p(-np.exp((log_q + e2) * (1 - 1 / two))))
    b = (order - 1) * (e1 - log_q / (one - 1))
    return np.logaddexp(right + a, log_q + b) / (order - 1)


def _lower(log_q: np.ndarray, sigma: float, classes: int) -> np.ndarray:
    return _moved(log_q, -math.sqrt(2) / sigma, classes)


def _upper(log_q: np.ndarray, sigma: float, classes: int) -> np.ndarray:
    return np.minimum(_moved(log_q, math.sqrt(2) / sigma, classes), 0.0)


def _moved(log_q: np.ndarray, by: float, classes: int) -> np.ndarray:
    """q of classes - 1 others, all as far behind as gives q, after each has moved by so many of its noises."""
    others = math.log(classes - 1)
    return others + log_ndtr(ndtri_exp(log_q - others) + by)


def _towards(votes: np.ndarray, ahead: bool, teachers: int) -> np.ndarray:
    """Votes [at most M, C], one vote further each: the first class gains on the second (ahead) or falls back."""
    path = [np.sort(votes)[::-1]]
    while len(path) < teachers:
        now = path[-1].copy()
        if (ahead and now[1] <= 0) or (not ahead and now[0] - now[1] < 2):
            break
        now[:2] += (1, -1) if ahead else (-1, 1)
        path.append(np.sort(now)[::-1])
    return np.stack(path)
