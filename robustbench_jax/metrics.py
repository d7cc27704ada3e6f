"""Metrics: each with its definition, its denominator and which direction is good for the defender.

Proportions carry the exact 95% interval (Clopper-Pearson), means the percentile bootstrap. Where the
denominator is 0 the value is None, never NaN.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from robustbench_jax.ops.statistics import bootstrap_mean, clopper_pearson
from robustbench_jax.types import Metric


@dataclass(frozen=True)
class Definition:
    """What a number means. better: "higher" or "lower", for the defender."""

    text: str
    denominator: str
    better: str


DEFINITIONS = {
    "clean_accuracy": Definition("share of images that the model classifies correctly", "all images", "higher"),
    "robust_accuracy": Definition(
        "share of images that the model classifies correctly and that the attack, within the budget, does "
        "not make it misclassify",
        "all images",
        "higher",
    ),
    "attack_success_rate": Definition(
        "share of correctly classified images on which the attack reaches its goal",
        "correctly classified images",
        "lower",
    ),
    "perturbation_size": Definition(
        "mean norm of x_adv - x, in the budget's norm, over successful attacks", "successful attacks", "higher"
    ),
    "median_size": Definition(
        "median over correctly classified images of the smallest perturbation found, in the budget's measure; "
        "none within the budget counts as infinite",
        "correctly classified images",
        "higher",
    ),
    "rejected_clean": Definition(
        "share of clean images that get no answer, though the model's answer would have been right: false positives",
        "images whose likeliest class is the right one",
        "lower",
    ),
    "rejected_attacked": Definition(
        "share of attacked images that get no answer as the attack hands them in, whether or not they fool the model "
        "else: the detection rate, where the attack knows of no detector",
        "attacked images",
        "higher",
    ),
    "detection_auc": Definition(
        "area under the ROC curve of the detector's score: the probability that an attacked image scores higher than a "
        "clean one, ties counting half; interval by bootstrap over images",
        "images whose likeliest class is the right one, clean, and those attacked",
        "higher",
    ),
    "certified_accuracy": Definition(
        "share of images that the model classifies correctly and of which the certifier proves that no point of the "
        "budget changes that",
        "all images",
        "higher",
    ),
    "average_certified_radius": Definition(
        "mean of the largest radius, in the budget's norm, at which an image is certified; 0 where the model is wrong "
        "or abstains",
        "all images",
        "higher",
    ),
    "undecided": Definition(
        "share of images that the model classifies correctly and that are neither certified nor broken by an "
        "adversarial example",
        "all images",
        "lower",
    ),
    "failure_probability": Definition(
        "probability, for each image, that its certificate is wrong; 0 for a proof", "all images", "lower"
    ),
    "corrupted_accuracy": Definition(
        "share of images that the model classifies correctly after the corruption, whatever it made of the clean one",
        "all images",
        "higher",
    ),
    "distortion": Definition(
        "mean root mean square change of a pixel by the corruption, pixels from 0 to 1", "all images", "lower"
    ),
    "failed_checks": Definition(
        "number of signs of masked gradients, or of an attack that is too weak, among the checks that apply",
        "checks that apply",
        "lower",
    ),
    "forwards_per_image": Definition(
        "mean number of forward evaluations of the model that the attack spent", "attacked images", "higher"
    ),
    "gradients_per_image": Definition(
        "mean number of gradient evaluations of the model that the attack spent", "attacked images", "higher"
    ),
}


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
    """The median of sizes [n], NaN for none found, with the 95% interval of its order statistics; None for infinite."""
    text, n = DEFINITIONS["median_size"].text, len(sizes)
    if not n:
        return Metric(None, 0, None, None, text)
    ordered = np.sort(np.where(np.isnan(sizes), np.inf, sizes))
    rank = int(binom.ppf(0.025, n, 0.5))  # P(fewer than `rank` lie below the median) < 2.5%
    low, high = ordered[max(rank - 1, 0)], ordered[min(n - rank, n - 1)]
    value = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    return Metric(*(_finite(value), n, _finite(low), _finite(high)), text)


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
