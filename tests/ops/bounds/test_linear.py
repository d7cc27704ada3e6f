"""Interval and linear bounds of networks of every operation: no point that is sampled or attacked leaves them."""

import numpy as np
import pytest

from tests.ops.bounds import nets

ROUNDING = 2e-5  # of the size of the bounds, in float32
FAST = ("dense relu", "convolutions")


def check(name, norm, count, points, seed=0):
    found, seen = nets.examined(nets.NETS[name], norm, count, points, seed)
    for kind, bounds in found._asdict().items():
        slack = ROUNDING * (1 + np.abs(bounds.low) + np.abs(bounds.high))
        assert np.all(np.isfinite(bounds.low)) and np.all(np.isfinite(bounds.high)), kind
        assert np.all(seen.low >= bounds.low - slack) and np.all(seen.high <= bounds.high + slack), kind


@pytest.mark.parametrize("name", FAST)
def test_no_point_leaves_the_bounds(name):
    check(name, "linf", 16, 1000)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("name", nets.NETS)
def test_no_point_of_a_thousand_boxes_and_balls_leaves_the_bounds(name, norm):
    check(name, norm, 400, 1000, seed=1)
