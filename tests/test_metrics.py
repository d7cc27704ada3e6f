"""Metrics: denominators, intervals, and what an empty denominator gives."""

import dataclasses

import numpy as np
import pytest

from robustbench_jax import metrics
from robustbench_jax.definitions import HEADINGS, heading

CLEAN = np.array([True] * 8 + [False] * 2)
ROBUST = np.array([True] * 5 + [False] * 5)
SIZE = np.where(CLEAN & ~ROBUST, np.array([0, 0, 0, 0, 0, 0.1, 0.2, 0.6, 0, 0]), np.nan)
FORWARDS = np.array([40] * 5 + [10, 20, 30, 0, 0])


@pytest.fixture(scope="module")
def found():
    return metrics.evasion(CLEAN, ROBUST, SIZE, FORWARDS, FORWARDS - CLEAN)


@pytest.mark.parametrize(
    "name, value, n",
    [
        ("clean_accuracy", 0.8, 10),
        ("robust_accuracy", 0.5, 10),
        ("attack_success_rate", 3 / 8, 8),
        ("perturbation_size", 0.3, 3),
        ("forwards_per_image", 32.5, 8),
        ("gradients_per_image", 31.5, 8),
    ],
)
def test_every_evasion_metric_has_its_own_denominator(found, name, value, n):
    assert found[name].value == pytest.approx(value) and found[name].n == n


def test_people_read_words_where_a_key_says_too_little():
    assert heading("membership_tpr_01") == "TPR at 0.1% FPR"
    assert heading("clean_accuracy") == "clean accuracy" and set(HEADINGS) <= set(metrics.DEFINITIONS)


def test_every_metric_carries_its_interval_and_definition(found):
    for name, metric in found.items():
        assert metric.low < metric.value < metric.high
        assert metric.definition == metrics.DEFINITIONS[name].text
        assert all(type(v) in (int, float, str) for v in dataclasses.asdict(metric).values())


def test_proportions_carry_the_clopper_pearson_interval():
    """0 of 10: the upper end is 1 - 0.025^(1/10)."""
    none = metrics.proportion("robust_accuracy", np.zeros(10, bool))
    assert (none.value, none.low) == (0, 0) and none.high == pytest.approx(1 - 0.025**0.1)


def test_an_attack_that_never_succeeds_has_no_perturbation_size():
    still = metrics.evasion(CLEAN, CLEAN, np.full(10, np.nan), FORWARDS, FORWARDS)
    size = still["perturbation_size"]
    assert (size.value, size.n, size.low, size.high) == (None, 0, None, None)
    assert still["attack_success_rate"].value == 0


def test_a_model_that_is_always_wrong_leaves_nothing_to_attack():
    lost = metrics.evasion(~CLEAN & CLEAN, ~CLEAN & CLEAN, np.full(10, np.nan), FORWARDS, FORWARDS)
    assert lost["clean_accuracy"].value == lost["robust_accuracy"].value == 0
    for name in ("attack_success_rate", "perturbation_size", "forwards_per_image", "gradients_per_image"):
        assert (lost[name].value, lost[name].n) == (None, 0)


def test_a_single_success_has_a_size_but_no_interval():
    one = metrics.mean("perturbation_size", np.array([0.25]))
    assert (one.value, one.n, one.low, one.high) == (0.25, 1, None, None)


def test_every_definition_says_which_direction_is_good_for_the_defender():
    assert {d.better for d in metrics.DEFINITIONS.values()} == {"higher", "lower"}
    assert metrics.DEFINITIONS["attack_success_rate"].better == "lower"
    assert all(d.text and d.denominator for d in metrics.DEFINITIONS.values())
