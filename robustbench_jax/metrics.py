"""Metrics: each with its definition, its denominator and which direction is good for the defender.

Proportions carry the exact 95% interval (Clopper-Pearson), means the percentile bootstrap. Where the
denominator is 0 the value is None, never NaN.
"""

import numpy as np
from scipy.stats import binom, chi2

from robustbench_jax.definitions import DEFINITIONS
from robustbench_jax.ops.accounting import Guarantee
from robustbench_jax.ops.statistics import (
    area_under_roc,
    bootstrap_mean,
    clopper_pearson,
    independent_difference,
    paired_difference,
    roc,
)
from robustbench_jax.types import Metric


def proportion(name: str, hits: np.ndarray) -> Metric:
    """The share of true among hits bool [n]."""
    n, count = len(hits), int(np.sum(hits))
    if not n:
        return Metric(None, 0, None, None, DEFINITIONS[name].text)
    low, high = clopper_pearson(count, n)
    return Metric(count / n, n, low, high, DEFINITIONS[name].text)


def mean(name: str, values: np.ndarray) -> Metric:
    """The mean of values [n]; no interval for fewer than two."""
    n = len(values)
    if not n:
        return Metric(None, 0, None, None, DEFINITIONS[name].text)
    low, high = bootstrap_mean(values) if n > 1 else (None, None)
    return Metric(float(np.mean(values, dtype=np.float64)), n, low, high, DEFINITIONS[name].text)


def median_size(sizes: np.ndarray) -> Metric:
    """The median of sizes [n], NaN for none found."""
    return median("median_size", np.where(np.isnan(sizes), np.inf, sizes))


def median(name: str, values: np.ndarray) -> Metric:
    """The median of values [n] with the 95% interval of its order statistics; None for infinite."""
    text, n = DEFINITIONS[name].text, len(values)
    if not n:
        return Metric(None, 0, None, None, text)
    ordered = np.sort(values)
    rank = int(binom.ppf(0.025, n, 0.5))  # P(fewer than `rank` lie below the median) < 2.5%
    low, high = ordered[max(rank - 1, 0)], ordered[min(n - rank, n - 1)]
    value = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    return Metric(*(_finite(value), n, _finite(low), _finite(high)), text)


def area(name: str, negative: np.ndarray, positive: np.ndarray) -> Metric:
    """The area under the ROC curve of scores negative [n] and positive [m]; n + m counts."""
    n = len(negative) + len(positive)
    if not len(negative) or not len(positive):
        return Metric(None, n, None, None, DEFINITIONS[name].text)
    value, (low, high) = area_under_roc(negative, positive)
    return Metric(value, n, low, high, DEFINITIONS[name].text)


def membership(scores: np.ndarray, members: np.ndarray) -> dict[str, Metric]:
    """From scores [N], larger for members, and members bool [N]. A true positive rate has its exact interval over
    members for the threshold as it is; None where so small a false positive rate cannot be told from 0.
    """
    curve, n = roc(scores, members), int(members.sum())
    found = {"membership_auc": area("membership_auc", scores[~members], scores[members])}
    others = len(members) - n
    for digits, rate in (("1", 0.01), ("01", 0.001), ("001", 0.0001)):
        name, text = f"membership_tpr_{digits}", DEFINITIONS[f"membership_tpr_{digits}"].text
        if rate * others < 1:
            found[name] = Metric(None, n, None, None, text)
            continue
        hits = round((best := curve.tpr_at(rate)) * n)
        found[name] = Metric(hits / n, n, *clopper_pearson(hits, n), text)
        false = round(float(np.min(curve.fpr[curve.tpr >= best])) * others)
        found[f"membership_fpr_{digits}"] = proportion(f"membership_fpr_{digits}", np.arange(others) < false)
    found["membership_advantage"] = number("membership_advantage", np.max(curve.tpr - curve.fpr), len(scores))
    return found


def attribute(found: np.ndarray, imputed: np.ndarray, members: np.ndarray) -> dict[str, Metric]:
    """From which attributes an attack, and the imputation without a model, say rightly: bool [N] each, over members and
    over the others.
    """
    out, gains = {}, []
    for prefix, rows in (("", members), ("held_out_", ~members)):
        attacked, base = found[rows], imputed[rows]
        gains.append(paired_difference(attacked, base))
        out[f"{prefix}attribute_accuracy"] = proportion(f"{prefix}attribute_accuracy", attacked)
        out[f"{prefix}imputation_accuracy"] = proportion(f"{prefix}imputation_accuracy", base)
        out[f"{prefix}attribute_advantage"] = _difference(f"{prefix}attribute_advantage", *gains[-1], len(attacked))
    out["attribute_memorised"] = _difference("attribute_memorised", *independent_difference(*gains), len(found))
    return out


def _difference(name: str, value: float, interval: tuple[float, float], n: int) -> Metric:
    return Metric(value, n, *interval, DEFINITIONS[name].text)


def rate(name: str, count: int, n: int) -> Metric:
    """Events in each of n units with the exact 95% interval of a Poisson rate (Garwood, Biometrika 1936)."""
    if not n:
        return Metric(None, 0, None, None, DEFINITIONS[name].text)
    low = chi2.ppf(0.025, 2 * count) / 2 if count else 0.0
    return Metric(count / n, n, float(low / n), float(chi2.ppf(0.975, 2 * count + 2) / 2 / n), DEFINITIONS[name].text)


def promise(found: Guarantee) -> Metric:
    """Epsilon, None for no promise at all; its definition says what it holds for, and by which accountant."""
    terms = found.terms or f"noise {found.noise:.4g}, rate {found.rate:.4g}, {found.steps} steps"
    held = f"delta {found.delta:g}, {terms}"
    return Metric(_finite(found.epsilon), 1, None, None, f"{DEFINITIONS['epsilon'].text} ({held}; {found.accountant})")


def number(name: str, value: float, n: int) -> Metric:
    """A number that has no interval."""
    return Metric(float(value), n, None, None, DEFINITIONS[name].text)


def unknown(name: str, n: int) -> Metric:
    """A number that cannot be told."""
    return Metric(None, n, None, None, DEFINITIONS[name].text)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def certification(
    right: np.ndarray, certified: np.ndarray, attacked: np.ndarray, radius: np.ndarray, failure: float
) -> dict[str, Metric]:
    """The certification threat's metrics from per-example arrays [N]; radius: NaN where there is none, finite else."""
    found = {
        "clean_accuracy": proportion("clean_accuracy", right),
        "certified_accuracy": proportion("certified_accuracy", certified),
        "undecided": proportion("undecided", right & ~certified & ~attacked),
        "failure_probability": Metric(float(failure), len(right), None, None, DEFINITIONS["failure_probability"].text),
    }
    if not np.isnan(radius).all():
        known = np.where(right & ~np.isnan(radius), radius, 0.0)
        found["average_certified_radius"] = mean("average_certified_radius", known)
        half = (
            float(np.sort(np.where(right, np.nan_to_num(radius, nan=0.0), 0.0))[len(right) // 2]) if len(right) else 0.0
        )
        found["median_certified_radius"] = number("median_certified_radius", max(half, 0.0), len(right))
    return found


def evasion(
    clean: np.ndarray, robust: np.ndarray, size: np.ndarray, forwards: np.ndarray, gradients: np.ndarray
) -> dict[str, Metric]:
    """The evasion threat's metrics from per-example arrays [N]; robust is true only where clean is."""
    broken = clean & ~robust
    return {
        "clean_accuracy": proportion("clean_accuracy", clean),
        "robust_accuracy": proportion("robust_accuracy", robust),
        "attack_success_rate": proportion("attack_success_rate", broken[clean]),
        "perturbation_size": mean("perturbation_size", size[broken]),
        "forwards_per_image": mean("forwards_per_image", forwards[clean]),
        "gradients_per_image": mean("gradients_per_image", gradients[clean]),
    }


def backdoor(
    seen: dict[str, np.ndarray], clean: dict[str, np.ndarray], before: dict[str, np.ndarray] | None
) -> dict[str, Metric]:
    """The backdoor threat's metrics from per-example arrays [N] of the final model, of one trained on clean data, and
    of the victim before it was defended (None: it was not): clean_correct, eligible, fooled, triggered_correct.
    """
    eligible = seen["eligible"]
    found = {
        "clean_accuracy": proportion("clean_accuracy", seen["clean_correct"]),
        "backdoor_success_rate": proportion("backdoor_success_rate", seen["fooled"][eligible]),
        "triggered_accuracy": proportion("triggered_accuracy", seen["triggered_correct"][eligible]),
        "clean_model_accuracy": proportion("clean_model_accuracy", clean["clean_correct"]),
        "clean_model_success_rate": proportion("clean_model_success_rate", clean["fooled"][eligible]),
    }
    if before is None:
        return found
    found["undefended_accuracy"] = proportion("undefended_accuracy", before["clean_correct"])
    found["undefended_success_rate"] = proportion("undefended_success_rate", before["fooled"][eligible])
    rates = [np.mean(it["fooled"][eligible]) if eligible.any() else 0.0 for it in (before, seen)]
    accuracies = [np.mean(it["clean_correct"]) for it in (before, seen)]
    rating = defence_effectiveness(*accuracies, *rates)
    return found | {"defence_effectiveness": number("defence_effectiveness", rating, len(eligible))}


def defence_effectiveness(
    accuracy_before: float, accuracy_after: float, success_before: float, success_after: float
) -> float:
    """DER, from 0 to 1 (Zhu et al., ICCV 2023, arXiv:2304.11823): falls of accuracy count against the defence."""
    return (1 + max(0.0, success_before - success_after) - max(0.0, accuracy_before - accuracy_after)) / 2


def availability(clean: np.ndarray, victim: np.ndarray) -> dict[str, Metric]:
    """From what a model trained on clean data, and the victim, get right: bool [N]."""
    return {
        "clean_model_accuracy": proportion("clean_model_accuracy", clean),
        "clean_accuracy": proportion("clean_accuracy", victim),
        "accuracy_drop": mean("accuracy_drop", clean.astype(float) - victim),
    }


def targeted_poisoning(
    clean: np.ndarray, success: np.ndarray, by_chance: np.ndarray, accuracies: np.ndarray
) -> dict[str, Metric]:
    """From bool [N] over targets: right on the clean model, taken for the intended class by the victim, and by the
    clean model; accuracies [N] of the victims on all test images.
    """
    return {
        "clean_model_accuracy": proportion("clean_model_accuracy", clean),
        "poison_success_rate": proportion("poison_success_rate", success),
        "clean_model_success_rate": proportion("clean_model_success_rate", by_chance),
        "victim_accuracy": mean("victim_accuracy", accuracies),
    }
