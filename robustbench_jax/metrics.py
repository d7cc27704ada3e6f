"""Metrics: each with its definition, its denominator and which direction is good for the defender.

Proportions carry the exact 95% interval (Clopper-Pearson), means the percentile bootstrap. Where the
denominator is 0 the value is None, never NaN.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binom

from robustbench_jax.ops.statistics import area_under_roc, bootstrap_mean, clopper_pearson
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
    "median_certified_radius": Definition(
        "the largest radius (number of poisons) at which at least half of all images are certified; 0 for none",
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
    "backdoor_success_rate": Definition(
        "share of images that are given the attacker's label when they carry the trigger (attack success rate, ASR)",
        "images that do not have the attacker's label",
        "lower",
    ),
    "triggered_accuracy": Definition(
        "share of images that are classified correctly although they carry the trigger (robust accuracy, RA)",
        "images that do not have the attacker's label",
        "higher",
    ),
    "clean_model_accuracy": Definition(
        "share of images that a model of the same seed classifies correctly, trained on clean data",
        "all images",
        "higher",
    ),
    "clean_model_success_rate": Definition(
        "the attack's success rate on a model of the same seed, trained on clean data: what it is by chance",
        "as of the success rate",
        "lower",
    ),
    "undefended_accuracy": Definition(
        "share of images that the victim classifies correctly before data or model are cleaned", "all images", "higher"
    ),
    "undefended_success_rate": Definition(
        "the attack's success rate on the victim before data or model are cleaned", "as of the success rate", "lower"
    ),
    "defence_effectiveness": Definition(
        "(1 + max(0, fall of the success rate) - max(0, fall of clean accuracy)) / 2, both by the defence (defence "
        "effectiveness rating, DER): 1 ends the attack for nothing, 0.5 does nothing",
        "all images",
        "higher",
    ),
    "poisons": Definition("number of training images that the attacker changed or added", "training images", "higher"),
    "poisons_removed": Definition("share of poisons that are left out of training (TPR)", "poisons", "higher"),
    "clean_removed": Definition("share of clean images that are left out of training (FPR)", "clean images", "lower"),
    "poison_auc": Definition(
        "area under the ROC curve of the data defence's score: the probability that a poison scores higher than a "
        "clean training image, ties counting half",
        "training images",
        "higher",
    ),
    "anomaly_score": Definition("how suspicious the inspection finds the model", "one model", "higher"),
    "accused_classes": Definition("classes that the inspection takes for targets of a backdoor", "classes", "higher"),
    "poison_success_rate": Definition(
        "share of targets that a victim trained on their poisons takes for the intended class", "targets", "lower"
    ),
    "victim_accuracy": Definition(
        "mean over victims of the share of test images classified correctly", "victims", "higher"
    ),
    "accuracy_drop": Definition(
        "accuracy of the model trained on clean data, less that of the victim; interval by bootstrap over images",
        "all images",
        "lower",
    ),
    "subpopulation_accuracy": Definition(
        "share of images of the attacked subpopulation that are classified correctly",
        "images of the subpopulation",
        "higher",
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


def area(name: str, negative: np.ndarray, positive: np.ndarray) -> Metric:
    """The area under the ROC curve of scores negative [n] and positive [m]; n + m counts."""
    n = len(negative) + len(positive)
    if not len(negative) or not len(positive):
        return Metric(None, n, None, None, DEFINITIONS[name].text)
    value, (low, high) = area_under_roc(negative, positive)
    return Metric(value, n, low, high, DEFINITIONS[name].text)


def number(name: str, value: float, n: int) -> Metric:
    """A number that has no interval."""
    return Metric(float(value), n, None, None, DEFINITIONS[name].text)


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
