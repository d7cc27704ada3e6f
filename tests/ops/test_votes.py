"""What noisy votes cost: against the published functions, and the general part against dp-accounting."""

import math

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, SelfComposedDpEvent
from dp_accounting.rdp import RdpAccountant

from robustbench_jax.ops import votes

COUNTS = [
    [200, 30, 20, 0, 0, 0, 0, 0, 0, 0],
    [240, 5, 5, 0, 0, 0, 0, 0, 0, 0],
    [90, 80, 40, 20, 20, 0, 0, 0, 0, 0],
    [250, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    [60, 55],
]
ORDERS = np.array([2.0, 8.0, 20.0, 50.0, 200.0])
# Of research/pate_2018/core.py of tensorflow/privacy at 03035d5, run on these counts: compute_logq_gaussian and
# rdp_gaussian; compute_logpr_answered with t = 150, sigma = 100 and t = 40, sigma = 10, and compute_rdp_threshold.
ANSWERS = [
    (40.0, -5.659945978483009, [0.000879658, 0.00108564, 0.00199555, 0.0164482, 0.125]),
    (20.0, -36.29767397002993, [2.84752e-16, 1.81595e-15, 8.90112e-13, 2.62896e-05, 0.5]),
    (40.0, -0.10536051565782628, [0.00125, 0.005, 0.0125, 0.03125, 0.125]),
    (60.0, -4.235468230530747, [0.000555556, 0.00222222, 0.00300441, 0.00772298, 0.0555556]),
    (5.0, -1.4281583103970297, [0.08, 0.32, 0.8, 2.0, 8.0]),
]
LOOKS = [
    (0, 150, 100.0, -0.36894641528865635, [0.0001, 0.0004, 0.001, 0.0025, 0.01]),
    (2, 150, 100.0, -1.2937038116140283, [0.0001, 0.0004, 0.001, 0.0025, 0.01]),
    (2, 40, 10.0, -2.8665161296376294e-07, [4.19304e-07, 2.14395e-06, 0.000558557, 0.246459, 1.0]),
    (4, 40, 10.0, -0.023012909328963476, [0.01, 0.0248113, 0.0923137, 0.25, 1.0]),
]


@pytest.mark.parametrize("counts, expected", list(zip(COUNTS, ANSWERS, strict=True)))
def test_answers_cost_what_the_published_functions_say(counts, expected):
    sigma, log_q, cost = expected
    found = votes.log_wrong(np.array(counts), sigma)
    assert found[0] == pytest.approx(log_q, rel=1e-12)
    np.testing.assert_allclose(votes.answer_cost(found, sigma, ORDERS)[0], cost, rtol=1e-5)


@pytest.mark.parametrize("row, threshold, sigma, log_yes, cost", LOOKS)
def test_looks_at_the_threshold_cost_what_the_published_functions_say(row, threshold, sigma, log_yes, cost):
    found = votes.log_answered(np.array(COUNTS[row]), threshold, sigma)
    assert found[0] == pytest.approx(log_yes, rel=1e-12)
    np.testing.assert_allclose(votes.threshold_cost(found, sigma, ORDERS)[0], cost, rtol=1e-5)


def made_votes():
    """Votes of 250 teachers on 200 queries, and the looks of the published run."""
    rng = np.random.default_rng(0)
    top = rng.integers(60, 250, 200)
    rest = np.stack([rng.multinomial(250 - count, np.ones(9) / 9) for count in top])
    counts = np.concatenate([top[:, None], rest], axis=1)
    return counts, counts.max(1) + rng.normal(size=200) * 150 > 200


def test_a_whole_run_costs_what_the_published_functions_say():
    """Their epsilon on made-up votes, 75 of 200 queries answered, is 1.12292517 (sigma1 150, threshold 200, sigma2 40);
    rejected queries are in it.
    """
    counts, answered = made_votes()
    assert answered.sum() == 75
    every = votes.dependent_epsilon(counts, answered, 200, 150.0, 40.0, 1e-5)
    assert every == pytest.approx(1.1229251673374767, rel=2e-4)  # other orders between the same ends
    some = votes.dependent_epsilon(counts[answered], answered[answered], 200, 150.0, 40.0, 1e-5)
    assert some < every - 0.05  # what 125 looks without an answer cost


def test_votes_that_are_all_but_certain_cost_less_and_never_more_than_any():
    rng = np.random.default_rng(1)
    counts, sigma = rng.integers(0, 250, (200, 10)), 30.0
    cost = votes.answer_cost(votes.log_wrong(counts, sigma), sigma)
    plain = votes.ORDERS / sigma**2
    assert (cost >= 0).all() and (cost <= plain + 1e-15).all() and (cost < 0.5 * plain).any()
    assert (np.diff(cost, axis=1) >= -1e-12).all()  # Renyi divergences rise with their order


@pytest.mark.parametrize("sigma1, sigma2, queries, answers", [(50.0, 25.0, 600, 300), (150.0, 40.0, 1, 1)])
def test_the_promise_is_that_of_gaussian_noise_on_two_distances(sigma1, sigma2, queries, answers):
    """An independent accountant, by Renyi divergences: a little above, and near."""
    found = votes.guarantee(sigma1, sigma2, queries, answers, 1e-5)
    accountant = RdpAccountant(votes.ORDERS)
    accountant.compose(SelfComposedDpEvent(GaussianDpEvent(sigma1), queries))
    accountant.compose(SelfComposedDpEvent(GaussianDpEvent(sigma2 / math.sqrt(2)), answers))
    renyi = accountant.get_epsilon(1e-5)
    assert 0.7 * renyi < found.epsilon <= renyi
    plain = queries * votes.ORDERS / (2 * sigma1**2) + answers * votes.ORDERS / sigma2**2
    assert votes.converted(plain, 1e-5) >= renyi  # the same costs, by the classical conversion


def test_every_look_and_every_answer_raises_the_promise():
    epsilons = [votes.guarantee(50.0, 25.0, *counts, 1e-5).epsilon for counts in ((100, 50), (200, 50), (200, 100))]
    assert epsilons[0] < epsilons[1] < epsilons[2]
