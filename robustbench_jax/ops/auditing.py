"""Lower bounds of a privacy loss, from how often guesses about planted examples are right.

Reference: Steinke, Nasr & Jagielski, NeurIPS 2023, arXiv:2305.08846 (auditing with one training run), Theorem 3.1 as a
test: of m canaries, each in by an independent coin, r are guessed; if training is (epsilon, delta)-private, v right
guesses or more have a probability of at most
P[Binomial(r, e^eps / (1 + e^eps)) >= v] + 2 m delta max_i P[v - i <= Binomial < v] / i.
The lower bound is the largest epsilon that the test rejects. The number of guesses is fixed before the run is seen.
"""

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binom

from robustbench_jax.types import UserError

MOST = 50.0  # an epsilon above which none is looked for


def p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """An upper bound of the probability of so many right guesses, under (epsilon, delta)-privacy."""
    if not 0 <= right <= guesses <= canaries:
        raise UserError(f"an audit of {canaries} canaries cannot have {right} of {guesses} guesses right")
    chance = 1 / (1 + np.exp(-epsilon))
    beta = binom.sf(right - 1, guesses, chance)
    if not right or not delta:
        return float(min(beta, 1.0))
    below = np.cumsum(binom.pmf(right - np.arange(1, right + 1), guesses, chance))
    alpha = np.max(below / np.arange(1, right + 1))
    return float(min(beta + 2 * canaries * delta * alpha, 1.0))


def epsilon_lower(canaries: int, guesses: int, right: int, delta: float, confidence: float = 0.95) -> float:
    """The lower bound of epsilon at this confidence; 0 where nothing is rejected."""

    def excess(epsilon: float) -> float:
        return p_value(canaries, guesses, right, epsilon, delta) - (1 - confidence)

    if excess(0.0) > 0:
        return 0.0
    return MOST if excess(MOST) <= 0 else float(brentq(excess, 0.0, MOST, xtol=1e-6)) - 1e-6
