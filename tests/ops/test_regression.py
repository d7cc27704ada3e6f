"""Softmax regression: its optimum, and a ridge that few examples call for."""

import numpy as np
from scipy.special import log_softmax

from robustbench_jax.ops.regression import RIDGES, chosen_regression, log_shares, softmax_regression

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(90, 3)), RNG.integers(0, 3, 90)


def test_it_has_no_gradient_left_and_does_not_shrink_the_constants():
    w = softmax_regression(X, Y, 3, 0.1)
    full = np.concatenate([X, np.ones((90, 1))], 1)
    slope = full.T @ (np.exp(log_softmax(full @ w, -1)) - np.eye(3)[Y]) / 90
    np.testing.assert_allclose(slope[:-1] + 0.1 * w[:-1], 0, atol=2e-3)
    np.testing.assert_allclose(slope[-1], 0, atol=2e-3)


def test_labels_that_nothing_tells_of_are_said_to_be_as_common_as_they_are():
    """A strong ridge leaves the constants alone: what is left is the prior."""
    shares = np.exp(log_shares(X, softmax_regression(X, Y, 3, 30.0)))
    np.testing.assert_allclose(shares, np.broadcast_to(np.bincount(Y) / 90, (90, 3)), atol=0.01)


def test_the_ridge_is_strong_where_there_is_nothing_to_learn_and_weak_where_there_is():
    noise = RNG.normal(size=(40, 30))
    np.testing.assert_allclose(
        chosen_regression(noise, Y[:40], 3), softmax_regression(noise, Y[:40], 3, RIDGES[0]), atol=1e-5
    )
    clear = np.eye(3)[Y] * 4 + RNG.normal(size=(90, 3))
    np.testing.assert_allclose(
        chosen_regression(clear, Y, 3)[:-1], softmax_regression(clear, Y, 3, RIDGES[-1])[:-1], atol=0.5
    )
