"""Detection: the ROC area as a rank statistic, and its interval."""

import numpy as np
import pytest

from robustbench_jax.ops.statistics import roc
from robustbench_jax.threats.detection import area

RNG = np.random.default_rng(0)


def test_a_detector_that_tells_all_apart_has_area_1_and_one_that_tells_nothing_a_half():
    clean, attacked = RNG.normal(size=30), 10 + RNG.normal(size=30)
    perfect, constant = area(clean, attacked), area(np.ones(30), np.ones(30))
    assert (perfect.value, perfect.low, perfect.high) == (1, 1, 1) and perfect.n == 30
    assert (constant.value, constant.low, constant.high) == (0.5, 0.5, 0.5)
    assert area(attacked, clean).value == 0
    assert all(type(end) is float for end in (perfect.value, perfect.low, perfect.high))  # as records need them


def test_the_area_is_the_share_of_pairs_in_order_with_ties_as_half():
    clean, attacked = RNG.integers(0, 6, 40).astype(float), RNG.integers(2, 8, 40).astype(float)
    attacked[30:] = np.nan
    positives = attacked[:30]
    above, tied = positives[:, None] > clean, positives[:, None] == clean
    found = area(clean, attacked)
    assert found.value == pytest.approx(np.mean(above + 0.5 * tied)) and found.low < found.value < found.high
    curve = roc(np.r_[clean, positives], np.repeat([False, True], [40, 30]))
    assert found.value == pytest.approx(curve.auc)


def test_images_that_were_not_attacked_count_as_clean_alone():
    clean, attacked = np.array([0.0, 1.0, 2.0, 9.0]), np.array([3.0, 4.0, 5.0, np.nan])
    found = area(clean, attacked)
    assert found.value == 0.75 and found.n == 4 and found.low <= 0.75 <= found.high


def test_without_attacked_images_there_is_no_area():
    found = area(np.arange(3.0), np.full(3, np.nan))
    assert (found.value, found.low, found.high) == (None, None, None)


def test_the_interval_of_the_area_holds_the_true_one_as_often_as_it_says():
    """Normal scores, the attacked ones shifted by 1: the area is Phi(1 / sqrt 2) = 0.760."""
    held = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        found = area(rng.normal(size=50), rng.normal(1, 1, 50), seed)
        held += found.low <= 0.7602 <= found.high
    assert 50 <= held <= 60
