"""Intervals, paired comparisons and ROC curves. Host code in float64; SciPy where SciPy has it.

All intervals are two-sided at level 1 - alpha unless the name says otherwise.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

from robustbench_jax.types import UserError


class Interval(NamedTuple):
    low: float
    high: float


def clopper_pearson(successes: int, n: int, alpha: float = 0.05) -> Interval:
    """The exact interval of a proportion (Clopper & Pearson, 1934): covers with at least 1 - alpha."""
    return _proportion(successes, n, alpha, "exact", "two-sided")


def clopper_pearson_lower(successes: int, n: int, alpha: float = 0.05) -> float:
    """The exact one-sided lower bound: the true proportion is below it with probability at most alpha."""
    return _proportion(successes, n, alpha, "exact", "greater").low


def wilson(successes: int, n: int, alpha: float = 0.05) -> Interval:
    """The score interval of a proportion (Wilson, JASA 1927): covers with 1 - alpha on average."""
    return _proportion(successes, n, alpha, "wilson", "two-sided")


def bootstrap_mean(values: np.ndarray, *, seed: int = 0, resamples: int = 9999, alpha: float = 0.05) -> Interval:
    """Percentile bootstrap interval of the mean of values [N]; equal values are their own interval."""
    values = _vector("values", values)
    return _bootstrap(values, seed, resamples, alpha)


def paired_bootstrap(
    a: np.ndarray, b: np.ndarray, *, seed: int = 0, resamples: int = 9999, alpha: float = 0.05
) -> tuple[float, Interval]:
    """mean(a - b) and its percentile bootstrap interval; a [N] and b [N] belong to the same examples."""
    a, b = _vector("a", a), _vector("b", b)
    if a.shape != b.shape:
        raise UserError(f"a paired comparison needs the same examples: {len(a)} and {len(b)} values")
    return float(np.mean(a - b)), _bootstrap(a - b, seed, resamples, alpha)


@dataclass(frozen=True)
class McNemar:
    """Discordant pairs and the exact two-sided p-value."""

    only_a: int
    only_b: int
    p_value: float


def mcnemar(a: np.ndarray, b: np.ndarray) -> McNemar:
    """Are a [N] and b [N] (bool, same examples) true equally often? Exact test of the discordant pairs."""
    a, b = np.asarray(a, bool), np.asarray(b, bool)
    if a.shape != b.shape:
        raise UserError(f"a paired comparison needs the same examples: {a.shape} and {b.shape}")
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    p = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    return McNemar(only_a, only_b, float(p))


def paired_difference(a: np.ndarray, b: np.ndarray, alpha: float = 0.05) -> tuple[float, Interval]:
    """share of a less share of b (bool [N], same examples) and its score interval.

    Newcombe, Statistics in Medicine 1998, 17:2635, method 10: the Wilson intervals of both shares, combined with the
    correlation phi of the pairs, which is corrected for continuity where it is positive. Within [-1, 1]; of no width
    only where it has to be.
    """
    a, b = np.asarray(a, bool), np.asarray(b, bool)
    if a.shape != b.shape:
        raise UserError(f"a paired comparison needs the same examples: {a.shape} and {b.shape}")
    n, pa, pb = len(a), float(np.mean(a)), float(np.mean(b))
    (low_a, high_a), (low_b, high_b) = (wilson(int(hits.sum()), n, alpha) for hits in (a, b))
    phi = _phi(a, b)

    def reach(one: float, other: float) -> float:
        return float(np.sqrt(max(one**2 - 2 * phi * one * other + other**2, 0.0)))

    low, high = reach(pa - low_a, high_b - pb), reach(pb - low_b, high_a - pa)
    return pa - pb, Interval(pa - pb - low, pa - pb + high)


def independent_difference(a: tuple[float, Interval], b: tuple[float, Interval]) -> tuple[float, Interval]:
    """a less b, each an estimate with its interval, of independent samples.

    Zou & Donner, Statistics in Medicine 2008, 27:1693 (MOVER): the distances to the intervals' ends are recovered
    standard errors, and add up in squares.
    """
    (one, (low_one, high_one)), (other, (low_other, high_other)) = a, b
    low = float(np.hypot(one - low_one, high_other - other))
    high = float(np.hypot(high_one - one, other - low_other))
    return one - other, Interval(one - other - low, one - other + high)


def t_interval(values: np.ndarray, alpha: float = 0.05) -> tuple[float, Interval]:
    """The mean of values [K], K >= 2, and Student's interval: standard deviation with ddof = 1, K - 1 degrees."""
    values = _vector("values", values)
    if len(values) < 2:
        raise UserError("an interval over one value needs another one")
    half = stats.t.ppf(1 - alpha / 2, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    mean = float(np.mean(values))
    return mean, Interval(mean - float(half), mean + float(half))


def _phi(a: np.ndarray, b: np.ndarray) -> float:
    n, both, neither = len(a), int(np.sum(a & b)), int(np.sum(~a & ~b))
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    below = np.sqrt(float((both + only_a) * (only_b + neither)) * float((both + only_b) * (only_a + neither)))
    above = both * neither - only_a * only_b
    if not below:
        return 0.0
    return (max(above - n / 2, 0.0) if above > 0 else above) / below


@dataclass(frozen=True)
class ROC:
    """fpr and tpr [K] at falling thresholds [K] (`score >= threshold` is called positive), and the area."""

    fpr: np.ndarray
    tpr: np.ndarray
    thresholds: np.ndarray
    auc: float

    def tpr_at(self, fpr: float) -> float:
        """The highest true positive rate with a false positive rate of at most `fpr`; not interpolated."""
        if not 0 <= fpr <= 1:
            raise UserError(f"fpr = {fpr} must lie between 0 and 1")
        return float(np.max(self.tpr[self.fpr <= fpr]))


def roc(scores: np.ndarray, labels: np.ndarray) -> ROC:
    """The curve of scores [N] against labels bool [N]; tied scores are one threshold, half in the area."""
    scores, labels = _vector("scores", scores), np.asarray(labels, bool)
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if scores.shape != labels.shape:
        raise UserError(f"roc needs one label a score: {len(scores)} scores, {len(labels)} labels")
    if not positives or not negatives:
        raise UserError(f"roc needs both classes; got {positives} positive and {negatives} negative labels")
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    hits = np.cumsum(labels[order])[last]
    tpr = np.append(0.0, hits / positives)
    fpr = np.append(0.0, (last + 1 - hits) / negatives)
    return ROC(fpr, tpr, np.append(np.inf, scores[order][last]), float(np.trapezoid(tpr, fpr)))


def _proportion(successes: int, n: int, alpha: float, method: str, alternative: str) -> Interval:
    if n < 1 or not 0 <= successes <= n:
        raise UserError(f"a proportion of {successes} in {n} has no interval")
    _require_level(alpha)
    found = stats.binomtest(int(successes), int(n), alternative=alternative).proportion_ci(1 - alpha, method)
    return Interval(float(found.low), float(found.high))


def _require_level(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise UserError(f"alpha = {alpha} must lie between 0 and 1")


def _bootstrap(values: np.ndarray, seed: int, resamples: int, alpha: float) -> Interval:
    _require_level(alpha)
    if np.ptp(values) == 0:
        return Interval(float(values[0]), float(values[0]))
    found = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=resamples,
        confidence_level=1 - alpha,
        method="percentile",
        rng=np.random.default_rng(seed),
        batch=max(1, 2**22 // len(values)),
    )
    return Interval(float(found.confidence_interval.low), float(found.confidence_interval.high))


def _vector(name: str, values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        shape = list(values.shape)
        raise UserError(f"{name} must be a vector of finite numbers, not empty; its shape is {shape}")
    return values


def area_under_roc(negative: np.ndarray, positive: np.ndarray) -> tuple[float, Interval]:
    """The probability that one of the scores positive [m] is larger than one of negative [n], ties counting half, and
    its 95% interval, which is of use at 0 and 1 as well: all areas from which this one is within 1.96 standard errors.

    Reference: Newcombe, Statistics in Medicine 2006 (25: 559-573), method 5. m, n at least 1.
    """
    m, n = len(positive), len(negative)
    ordered = np.sort(negative)
    below, upto = (np.searchsorted(ordered, positive, side) for side in ("left", "right"))
    area = float(np.sum(below + upto, dtype=np.float64) / (2 * m * n))
    pairs = (m + n) / 2 - 1

    def away(theta: float) -> float:
        variance = theta * (1 - theta) * (1 + pairs * ((1 - theta) / (2 - theta) + theta / (1 + theta))) / (m * n)
        return (area - theta) ** 2 - stats.norm.ppf(0.975) ** 2 * variance

    inner = min(max(area, 1e-12), 1 - 1e-12)  # at 0 and 1 the area is a solution itself
    low = 0.0 if area == 0 else optimize.brentq(away, 0.0, inner)
    high = 1.0 if area == 1 else optimize.brentq(away, inner, 1.0)
    return area, Interval(float(low), float(high))
