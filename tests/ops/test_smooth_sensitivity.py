"""What may be told of the votes' cost: against the published functions, and against changing votes by hand."""

import numpy as np
import pytest

from robustbench_jax.ops import smooth_sensitivity
from robustbench_jax.ops.smooth_sensitivity import (
    Release,
    answer_change,
    answer_changes,
    holds,
    look_changes,
    smooth,
    told_epsilon,
)
from robustbench_jax.ops.votes import answer_cost, dependent_epsilon, log_wrong

FIRST, SURE, CLOSE = [200, 30, 20] + [0] * 7, [240, 5, 5] + [0] * 7, [90, 80, 40, 20, 20] + [0] * 5
AT = [0, 1, 5, 50, 249]
# Of research/pate_2018/smooth_sensitivity.py of tensorflow/privacy, 250 teachers, 10 classes:
# compute_local_sensitivity_bounds_gnmax at the distances AT, and compute_discounted_max of it with beta = 0.4 / order.
LARGEST = {40.0: 0.0008268187886778054, 20.0: 0.0028666904827801022}
PUBLISHED = [
    (
        FIRST,
        40.0,
        20.5,
        [0.00021619098376922863, 0.00022867641367342552, 0.00028481103834748995],
        0.00046045710309348394,
    ),
    (FIRST, 20.0, 8.0, [2.135455221097973e-09, 3.0967558996290793e-09, 1.3372665553919064e-08], 0.00015207277040123467),
    (SURE, 40.0, 20.5, [1.698172324933635e-05, 1.8216604465028937e-05, 2.414669664473808e-05], 0.0002325936336185894),
    (SURE, 20.0, 8.0, [1.3864904977797574e-15, 1.9930634269284863e-15, 9.909848499019221e-15], 3.029290423678258e-05),
    (CLOSE, 40.0, 20.5, [0.0, 0.0, 0.0], 0.00021097336506460744),
    (CLOSE, 20.0, 8.0, [0.0, 0.0, 0.0], 0.0009542383676299835),
]


@pytest.mark.parametrize("votes, sigma, order, first, smoothed", PUBLISHED)
def test_sensitivities_are_those_of_the_published_functions(votes, sigma, order, first, smoothed):
    found = answer_changes(np.array(votes), 250, sigma, order)
    np.testing.assert_allclose(found[AT[:3]], first, rtol=1e-9)
    assert found[249] == pytest.approx(LARGEST[sigma], rel=1e-9)
    assert smooth(found, 0.4 / order) == pytest.approx(smoothed, rel=1e-9)


def test_sensitivities_of_looks_and_the_cost_of_telling_are_those_of_the_published_functions():
    found = look_changes(np.array(CLOSE), 250, 40, 10.0, 20.0)
    expected = [0.00022022944145081553, 0.00029613979975628426, 0.0008563829196155215, 0.0, 0.0]
    np.testing.assert_allclose(found[AT], expected, rtol=1e-9, atol=1e-15)
    assert Release(20.0, 0.02, 10.0).cost == pytest.approx(0.2715684156920066, rel=1e-12)
    with pytest.raises(ValueError, match="order 30.0 must be above 1 and below"):
        _ = Release(30.0, 0.02, 10.0).cost


@pytest.mark.parametrize("sigma, order, published", [(20.0, 8.0, True), (20.0, 20.5, False), (40.0, 40.0, False)])
def test_the_conditions_hold_where_they_do_by_symbols(sigma, order, published):
    assert holds(sigma, 10, order) is published


def test_no_change_of_one_vote_changes_the_cost_by_more_than_the_bound():
    """Every vote of every teacher moved to every other class, near and far from agreement."""
    order, sigma = 3.0, 5.0
    assert holds(sigma, 3, order)
    for votes in ([28, 1, 1], [24, 5, 1], [20, 8, 2], [16, 14, 0], [30, 0, 0], [12, 10, 8]):
        before = np.array(votes)
        bound = answer_changes(before, 30, sigma, order)
        for source, target in ((a, b) for a in range(3) for b in range(3) if a != b and votes[a]):
            after = before.copy()
            after[source] -= 1
            after[target] += 1
            costs = answer_cost(log_wrong(np.stack([before, after]), sigma), sigma, np.array([order]))[:, 0]
            assert abs(costs[1] - costs[0]) <= bound[0] * (1 + 1e-9) + 1e-12
            assert answer_change(log_wrong(after, sigma), sigma, 3, order)[0] <= bound[1] * (1 + 1e-9) + 1e-12


def test_what_is_told_is_right_on_the_mean_and_costs_something():
    votes = np.tile([[235, 5, 5, 5] + [0] * 6], (200, 1))
    given = (votes, np.ones(200, bool), (200, 200), 150.0, 100.0, 40.0, 1e-5)
    told = [told_epsilon(np.random.default_rng(seed), *given) for seed in range(40)]
    assert told[0] == told_epsilon(np.random.default_rng(0), *given)
    kept = dependent_epsilon(votes, np.ones(200, bool), 150.0, 100.0, 40.0, 1e-5)
    error = np.std(told) / np.sqrt(40)
    assert kept < np.mean(told) + 3 * error  # another order, and what telling costs
    assert abs(np.median(told) - np.mean(told)) < 4 * error


def test_where_no_order_fulfils_the_conditions_nothing_is_told(monkeypatch):
    monkeypatch.setattr(smooth_sensitivity, "holds", lambda *given: False)
    given = (np.array([[12, 0, 0]]), np.ones(1, bool), (1, 1), 6.0, 1.0, 1.0, 1e-5)
    assert told_epsilon(np.random.default_rng(0), *given) is None
