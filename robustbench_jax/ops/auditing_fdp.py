"""Lower bounds of a privacy loss by f-differential privacy, from the same guesses as ops/auditing.py.

Reference: Mahloujifar, Melis & Chaudhuri, 2024, arXiv:2410.22235 (auditing f-DP in one run). With F(x) = 1 - f(x) for
the trade-off function f, and p_i the probability of i right guesses of r among m canaries, flipping the coin of one
canary gives sum_{i >= j} i / m p_i <= F(sum_{i >= j - 1} (r - i) / m p_i) for every j. From P[v right or more] = alpha
these force more and more probability below v, down to i = 0; where it exceeds 1, so many right guesses are less likely
than alpha.
"dp" takes the f of (epsilon, delta), and supposes nothing. "gaussian" bounds the mu of a Gaussian trade-off and gives
the epsilon that it has at delta: larger, and about trainings whose trade-off is of that form, as that of many small
steps of noise nearly is. A fixed f has to be symmetric.
"""

from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri
from scipy.stats import norm

from robustbench_jax.types import UserError

MOST = 50.0  # an epsilon above which none is looked for
MOST_MU = 20.0
Inverse = Callable[[float], float]


def dp_inverse(epsilon: float, delta: float) -> Inverse:
    """F^-1 of (epsilon, delta)-privacy: the smallest false rate that a true rate needs."""
    grow = np.exp(epsilon)
    return lambda true: max(0.0, (true - delta) / grow, 1 - delta - grow * (1 - true))


def gaussian_inverse(mu: float) -> Inverse:
    """F^-1 of telling N(0, 1) from N(mu, 1)."""
    return lambda true: float(ndtr(ndtri(min(true, 1.0)) - mu))


def unlikely(canaries: int, guesses: int, right: int, inverse: Inverse, alpha: float) -> bool:
    """Whether `right` or more of so many guesses have a probability below alpha."""
    if not 0 <= right <= guesses <= canaries:
        raise UserError(f"an audit of {canaries} canaries cannot have {right} of {guesses} guesses right")
    true, false = alpha * right / canaries, alpha * (guesses - right) / canaries
    for i in range(right - 1, -1, -1):
        needed = max(false, inverse(true))
        true, false = true + i / (guesses - i) * (needed - false), needed
        if true + false > guesses / canaries:
            return True
    return False


def epsilon_lower_fdp(canaries: int, guesses: int, right: int, delta: float, confidence: float = 0.95) -> float:
    """The largest epsilon that is refuted at this confidence, at delta; 0 where none is."""
    alpha = 1 - confidence
    return _largest(lambda eps: unlikely(canaries, guesses, right, dp_inverse(eps, delta), alpha), MOST)


def mu_lower(canaries: int, guesses: int, right: int, confidence: float = 0.95) -> float:
    """The largest mu of a Gaussian trade-off that is refuted at this confidence; 0 where none is."""
    return _largest(lambda mu: unlikely(canaries, guesses, right, gaussian_inverse(mu), 1 - confidence), MOST_MU)


def epsilon_of_mu(mu: float, delta: float) -> float:
    """Of a Gaussian trade-off (Dong, Roth & Su, 2022, arXiv:1905.02383, Corollary 2.13); 0 where delta covers it."""

    def excess(epsilon: float) -> float:
        scaled = epsilon / mu
        return norm.cdf(mu / 2 - scaled) - np.exp(epsilon + norm.logcdf(-mu / 2 - scaled)) - delta

    if mu <= 0 or excess(0.0) <= 0:
        return 0.0
    return float(brentq(excess, 0.0, mu * mu / 2 + 10 * mu + 10, xtol=1e-9))


def _largest(refuted: Callable[[float], bool], most: float) -> float:
    """The largest value up to `most` that is refuted, to 1e-4 from below."""
    if not refuted(0.0):
        return 0.0
    low, high = 0.0, most
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low
