"""What answers by noisy votes cost: Renyi privacy of Confident-GNMax, in general and for the votes that there were.

Reference: Papernot et al., ICLR 2018, arXiv:1802.08908. Noise is in votes. One example changes the vote of one teacher:
two counts by one each, a distance of sqrt(2), so that the answer is (order, order / sigma2^2)-Renyi private
(Proposition 8); the largest count changes by one at most, so that looking whether it is above the threshold is
(order, order / (2 sigma1^2))-Renyi private, and is paid for at every query, answered or not. Where one answer is all
but certain it costs less (Theorem 6, with the orders of Proposition 10): a number that itself depends on the private
votes, and promises nothing to anybody who is told it (that takes noise of its smooth sensitivity).
Shapes: Q queries, C classes, A orders.
"""

import math

import numpy as np
from scipy.special import log_ndtr, logsumexp

from robustbench_jax.ops.accounting import Guarantee, gaussian_guarantee

ORDERS = np.concatenate([np.arange(1.5, 100, 0.5), np.geomspace(100, 1000, 200)])


def guarantee(sigma1: float, sigma2: float, queries: int, answers: int, delta: float) -> Guarantee:
    """Whatever the votes: `queries` looks at the threshold and at most `answers` answers, examples added or removed."""
    squared = queries / sigma1**2 + 2 * answers / sigma2**2  # of the distance, in noises, of all of them together
    terms = f"noise of {sigma1:g} votes in {queries} looks, of {sigma2:g} in {answers} answers"
    return gaussian_guarantee(1 / math.sqrt(squared), delta, terms)


def dependent_epsilon(
    votes: np.ndarray, answered: np.ndarray, threshold: float, sigma1: float, sigma2: float, delta: float
) -> float:
    """Epsilon of these votes [Q, C] and of whether each was answered, bool [Q]: not a promise."""
    looks = threshold_cost(log_answered(votes, threshold, sigma1), sigma1).sum(0)
    said = answer_cost(log_wrong(votes[answered], sigma2), sigma2).sum(0)
    return converted(looks + said, delta)


def converted(cost: np.ndarray, delta: float, orders: np.ndarray = ORDERS) -> float:
    """The epsilon at delta of Renyi costs [A]."""
    return float(np.min(cost + math.log(1 / delta) / (orders - 1)))


def log_wrong(votes: np.ndarray, sigma: float) -> np.ndarray:
    """[Q]: an upper bound of log P(the answer is not the class with most votes) (Proposition 7)."""
    votes = np.atleast_2d(votes).astype(float)
    behind = votes.max(-1, keepdims=True) - votes
    behind[np.arange(len(votes)), votes.argmax(-1)] = np.inf
    bound = logsumexp(log_ndtr(-behind / (math.sqrt(2) * sigma)), axis=-1)
    return np.minimum(bound, math.log(1 - 1 / votes.shape[-1]))


def log_answered(votes: np.ndarray, threshold: float, sigma: float) -> np.ndarray:
    """[Q]: log P(the largest count with noise is above the threshold)."""
    return log_ndtr((np.atleast_2d(votes).max(-1) - threshold) / sigma)


def answer_cost(log_q: np.ndarray, sigma: float, orders: np.ndarray = ORDERS) -> np.ndarray:
    """Renyi costs [Q, A] of answers that are other ones with a probability of at most exp(log_q), log_q [Q]."""
    log_q = np.atleast_1d(log_q)[:, None]
    plain = np.broadcast_to(orders / sigma**2, (len(log_q), len(orders)))
    two = sigma * np.sqrt(-log_q)
    usable = (two > 1) & (orders < two + 1)
    two = np.where(two > 1, two, 2.0)
    one, e1, e2 = two + 1, (two + 1) / sigma**2, two / sigma**2
    limit = (two - 1) * e2 - two * (np.log(one / (one - 1)) + np.log(two / (two - 1)))
    usable &= (log_q <= limit) & (-log_q > e2)
    log_q = np.where(usable, log_q, -2 * e2 - 1)
    right = _log_one_less(log_q)
    a = right - _log_one_less((log_q + e2) * (1 - 1 / two))
    b = e1 - log_q / (one - 1)
    tight = np.logaddexp(right + (orders - 1) * a, log_q + (orders - 1) * b) / (orders - 1)
    return np.where(usable, np.minimum(plain, tight), plain)


def threshold_cost(log_yes: np.ndarray, sigma: float, orders: np.ndarray = ORDERS) -> np.ndarray:
    """Renyi costs [Q, A] of looks that say yes with probability exp(log_yes), log_yes [Q]."""
    log_yes = np.atleast_1d(log_yes)
    log_no = _log_one_less(np.minimum(log_yes, -1e-300))
    return answer_cost(np.minimum(log_yes, log_no), math.sqrt(2) * sigma, orders)


def _log_one_less(x: np.ndarray) -> np.ndarray:
    """log(1 - exp(x)) for x < 0."""
    small = x < -math.log(2)
    return np.where(small, np.log1p(-np.exp(np.where(small, x, -1.0))), np.log(-np.expm1(np.where(small, -1.0, x))))
