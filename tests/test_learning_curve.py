"""Learning curves: accuracy on the images held out against a closed form, and when a fall counts as a collapse."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from robustbench_jax.learning_curve import Trace, best, collapse, constant_answer, validate
from robustbench_jax.registry import build
from tests import oracles


@pytest.mark.parametrize(
    "accuracy, robust, epoch",
    [
        ((0.5, 0.7, 0.9), (0.3, 0.5, 0.2), 2),
        ((0.5, 0.7, 0.9), (0.3, 0.5, 0.26), None),  # not below half
        ((0.5, 0.7, 0.6), (0.3, 0.5, 0.0), None),  # training accuracy falls too: it diverged
        ((0.5, 0.7, 0.9, 0.95), (0.5, 0.0, 0.6, 0.1), 1),
        ((0.5, 0.7, 0.9), (0.01, 0.01, 0.0), None),  # one image of a hundred
        ((0.5, 0.7, 0.9), (0.3, 0.4, 0.35), None),  # robust overfitting is no collapse
        ((0.5,), (), None),
    ],
)
def test_a_collapse_is_a_fall_below_half_of_the_best_while_training_accuracy_rises(accuracy, robust, epoch):
    assert collapse(accuracy, (0.9,) * len(robust), robust, 100, 0.1) == epoch


def test_what_gave_one_answer_only_has_not_collapsed_once_it_learns():
    accuracy, clean, robust = (0.05, 0.1, 0.1, 0.3, 0.5), (0.1, 0.11, 0.1, 0.4, 0.6), (0.1, 0.1, 0.0, 0.2, 0.02)
    assert collapse(accuracy[:4], clean[:4], robust[:4], 100, 0.1) is None
    assert collapse(accuracy, clean, robust, 100, 0.1) == 4
    assert collapse(accuracy, clean, robust, 100) == 2
    assert constant_answer(np.array([0, 2, 2, 1])) == 0.5


@pytest.mark.parametrize("eps", [0.005, 0.02])
def test_accuracies_on_the_images_held_out_are_the_exact_ones_of_a_linear_model(eps):
    linear = oracles.linear(60)
    data = replace(linear.data, y=np.where(np.arange(60) < 10, 1 - linear.data.y, linear.data.y))
    watched = build("attack", "pgd(steps=4)"), build("budget", f"linf({eps})")
    clean, robust = validate(jax.random.key(0), linear.model, data, watched, 16)
    assert clean == pytest.approx(50 / 60)
    assert robust == pytest.approx(np.mean((linear.distance("linf") > eps) & (np.arange(60) >= 10)))
    assert 0 < robust < clean
    assert np.isnan(validate(jax.random.key(0), linear.model, data, None, 16)[1])


def test_the_best_epoch_is_the_first_of_equals_by_robust_accuracy_where_there_is_one():
    trace = Trace.of(3).judged(0, 0.5, 0.2).judged(1, 0.9, 0.4)
    assert best(trace) == 1 and best(trace.judged(2, 0.95, 0.4)) == 1
    unattacked = Trace.of(3).judged(0, 0.9, np.nan).judged(1, 0.5, np.nan).judged(2, 0.9, np.nan)
    assert best(unattacked) == 0
