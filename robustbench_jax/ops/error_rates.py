"""Lower bounds of a privacy loss from many trainings: how often a test takes one world for the other.

Reference: Jagielski, Ullman & Oprea, NeurIPS 2020, arXiv:2006.07709; Nasr et al., IEEE S&P 2021, arXiv:2101.04535.
(epsilon, delta)-privacy holds every test's error rates to 1 - miss <= e^eps false_alarm + delta, and to the same with
the two exchanged. Both rates are replaced by their upper Clopper-Pearson bounds, which hold together with the stated
confidence. Where the two worlds differ by k copies of an example, they are k neighbours apart: k eps takes the place of
eps, and delta (1 + e^eps + ... + e^((k - 1) eps)) that of delta.
Bounds are for independent trainings, and for a test that was fixed without looking at them.
"""

import numpy as np
from scipy.optimize import brentq
from scipy.stats import beta

from robustbench_jax.types import UserError

MOST = 50.0


def upper_rate(errors: int, runs: int, alpha: float) -> float:
    """The one-sided Clopper-Pearson bound of an error rate; 1 for no runs."""
    if not 0 <= errors <= runs:
        raise UserError(f"{runs} runs cannot have {errors} errors")
    return 1.0 if errors == runs else float(beta.ppf(1 - alpha, errors + 1, runs - errors))


def epsilon_lower_errors(
    false_alarms: int, without: int, misses: int, with_it: int, delta: float, copies: int = 1, confidence: float = 0.95
) -> float:
    """The lower bound, from false alarms among the runs without the example and misses among those with it."""
    alpha = (1 - confidence) / 2
    alarm, miss = upper_rate(false_alarms, without, alpha), upper_rate(misses, with_it, alpha)
    return max(_bound(1 - miss, alarm, delta, copies), _bound(1 - alarm, miss, delta, copies))


def _bound(true: float, false: float, delta: float, copies: int) -> float:
    """The epsilon with true = e^(k eps) false + delta_k(eps); 0 where 0 allows for it."""

    def excess(epsilon: float) -> float:
        return true - np.exp(copies * epsilon) * false - delta * np.sum(np.exp(epsilon * np.arange(copies)))

    return float(brentq(excess, 0.0, MOST, xtol=1e-9)) if excess(0.0) > 0 else 0.0
