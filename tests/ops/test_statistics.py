"""Statistics: closed forms, exact coverage, and SciPy's other routes to the same number."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from robustbench_jax.ops.statistics import (
    bootstrap_mean,
    clopper_pearson,
    clopper_pearson_lower,
    mcnemar,
    paired_bootstrap,
    roc,
    wilson,
)
from robustbench_jax.types import UserError


def test_clopper_pearson_of_all_or_nothing_has_a_closed_form():
    assert clopper_pearson(0, 50) == pytest.approx((0, 1 - 0.025 ** (1 / 50)))
    assert clopper_pearson(50, 50) == pytest.approx((0.025 ** (1 / 50), 1))
    assert clopper_pearson_lower(100, 100, 0.001) == pytest.approx(0.001 ** (1 / 100))
    assert clopper_pearson_lower(0, 100, 0.001) == 0


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 400), st.data())
def test_clopper_pearson_equals_the_quantiles_of_the_beta_distribution(n, data):
    k = data.draw(st.integers(1, n))
    low, high = clopper_pearson(k, n, 0.1)
    assert low == pytest.approx(stats.beta.ppf(0.05, k, n - k + 1), abs=1e-9)
    assert high == pytest.approx(stats.beta.ppf(0.95, k + 1, n - k) if k < n else 1, abs=1e-9)
    assert clopper_pearson_lower(k, n, 0.05) == pytest.approx(low, abs=1e-9)


def coverage(interval, n, p):
    """The probability, summed over all outcomes, that the interval holds each of p."""
    low, high = np.array([interval(k, n) for k in range(n + 1)]).T
    return np.array([stats.binom.pmf(np.arange(n + 1), n, at) @ ((low <= at) & (at <= high)) for at in p])


def test_clopper_pearson_covers_every_proportion_and_wilson_does_on_average():
    grid = np.linspace(0.01, 0.99, 99)
    exact, score = (coverage(interval, 20, grid) for interval in (clopper_pearson, wilson))
    assert exact.min() >= 0.95
    assert score.min() < 0.95 and score.mean() == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize(
    "k, n, score, exact",
    [
        (81, 263, (0.2553, 0.3662), (0.2527, 0.3676)),
        (15, 148, (0.0624, 0.1605), (0.0578, 0.1617)),
        (0, 20, (0.0, 0.1611), (0.0, 0.1684)),
        (1, 29, (0.0061, 0.1718), (0.0009, 0.1776)),
    ],
)
def test_both_intervals_equal_the_published_examples(k, n, score, exact):
    """Newcombe, Statistics in Medicine 17 (1998), table I: methods 3 and 5."""
    assert wilson(k, n) == pytest.approx(score, abs=5.1e-5)
    assert clopper_pearson(k, n) == pytest.approx(exact, abs=5.1e-5)


def test_wilson_equals_its_formula():
    p, n, z = 0.3, 40, stats.norm.ppf(0.975)
    centre, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    found = np.array(wilson(12, 40)) * (1 + z**2 / n)
    assert found == pytest.approx([centre - half, centre + half])


@pytest.mark.parametrize("interval", [clopper_pearson, wilson, clopper_pearson_lower])
@pytest.mark.parametrize("k, n, alpha", [(0, 0, 0.05), (3, 2, 0.05), (-1, 2, 0.05), (1, 2, 0.0), (1, 2, 1.5)])
def test_an_impossible_proportion_or_level_is_refused(interval, k, n, alpha):
    with pytest.raises(UserError, match="has no interval|must lie between 0 and 1"):
        interval(k, n, alpha)


def test_the_bootstrap_of_many_values_approaches_the_normal_interval():
    values = np.random.default_rng(0).normal(3, 2, 2000)
    low, high = bootstrap_mean(values, seed=1)
    half = 1.96 * values.std() / np.sqrt(2000)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_the_bootstrap_is_a_function_of_its_seed():
    values = np.random.default_rng(0).random(30)
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    assert bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)


def test_equal_values_are_their_own_interval():
    assert bootstrap_mean([0.25] * 7) == (0.25, 0.25)
    assert paired_bootstrap([1, 2, 3], [0, 1, 2]) == (1.0, (1.0, 1.0))


def test_pairing_takes_out_what_both_share():
    rng = np.random.default_rng(0)
    b = rng.normal(0, 10, 300)
    a = b + 0.5 + rng.normal(0, 1, 300)
    difference, (low, high) = paired_bootstrap(a, b, resamples=2000)
    assert difference == pytest.approx(np.mean(a) - np.mean(b))
    assert 0 < low < difference < high < 1
    alone = bootstrap_mean(a, resamples=2000)
    assert high - low < 0.2 * (alone.high - alone.low)


def test_paired_bootstrap_takes_outcomes_as_bools():
    difference, (low, high) = paired_bootstrap([True, True, False, True], [False, True, False, False])
    assert difference == 0.5 and 0 <= low <= 0.5 <= high <= 1


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [[1.0, 2.0]], [np.inf]])
def test_the_bootstrap_refuses_what_is_no_vector_of_finite_numbers(values):
    with pytest.raises(UserError, match="must be a vector of finite numbers"):
        bootstrap_mean(values)


def test_the_bootstrap_refuses_unpaired_values_and_impossible_levels():
    with pytest.raises(UserError, match="3 and 2 values"):
        paired_bootstrap([1, 2, 3], [1, 2])
    with pytest.raises(UserError, match="alpha = 2"):
        bootstrap_mean([1.0, 2.0], alpha=2)


def test_mcnemar_sums_the_binomial_tail_of_the_discordant_pairs():
    a = np.array([True] * 10 + [False] * 2 + [True] * 30 + [False] * 8)
    b = np.array([False] * 10 + [True] * 2 + [True] * 30 + [False] * 8)
    found = mcnemar(a, b)
    assert (found.only_a, found.only_b) == (10, 2)
    assert found.p_value == pytest.approx(2 * (1 + 12 + 66) / 2**12)
    assert mcnemar(b, a).p_value == found.p_value


def test_mcnemar_without_discordant_pairs_tells_nothing_apart():
    assert mcnemar([True, False], [True, False]).p_value == 1
    with pytest.raises(UserError, match="same examples"):
        mcnemar([True], [True, False])


def test_roc_of_perfect_constant_and_reversed_scores():
    labels = [False, False, True, True]
    assert roc([0, 1, 2, 3], labels).auc == 1
    assert roc([5, 5, 5, 5], labels).auc == 0.5
    assert roc([3, 2, 1, 0], labels).auc == 0


def test_roc_by_hand_with_a_tie():
    found = roc([0.9, 0.7, 0.7, 0.1], [True, True, False, False])
    np.testing.assert_array_equal(found.thresholds, [np.inf, 0.9, 0.7, 0.1])
    np.testing.assert_array_equal(found.tpr, [0, 0.5, 1, 1])
    np.testing.assert_array_equal(found.fpr, [0, 0, 0.5, 1])
    assert found.auc == 0.875


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=60))
def test_the_area_is_the_chance_that_a_positive_outranks_a_negative(pairs):
    scores, labels = (np.array(part) for part in zip(*pairs, strict=True))
    if labels.all() or not labels.any():
        with pytest.raises(UserError, match="needs both classes"):
            roc(scores, labels)
        return
    found = roc(scores, labels)
    wins = stats.mannwhitneyu(scores[labels], scores[~labels]).statistic
    assert found.auc == pytest.approx(wins / (labels.sum() * (~labels).sum()))
    assert (np.diff(found.tpr) >= 0).all() and (np.diff(found.fpr) >= 0).all()
    assert found.tpr[-1] == found.fpr[-1] == 1
    for threshold, tpr in zip(found.thresholds, found.tpr, strict=True):
        assert tpr == np.mean(scores[labels] >= threshold)


def test_the_true_positive_rate_at_a_false_positive_rate_is_not_interpolated():
    scores = np.concatenate([np.arange(1000), [998.5, 997.5, 2000.0]])
    found = roc(scores, np.arange(1003) >= 1000)
    assert found.tpr_at(0.0) == pytest.approx(1 / 3)
    assert found.tpr_at(0.0019) == pytest.approx(2 / 3)
    assert found.tpr_at(0.002) == found.tpr_at(1.0) == 1
    with pytest.raises(UserError, match="fpr = -0.1"):
        found.tpr_at(-0.1)


def test_roc_refuses_labels_of_another_length():
    with pytest.raises(UserError, match="3 scores, 2 labels"):
        roc([1, 2, 3], [True, False])
