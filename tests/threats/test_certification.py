"""Certification: what is counted of a certificate, on a linear model whose certified radii are known."""

import dataclasses

import jax
import numpy as np
import pytest

from robustbench_jax.registry import build
from robustbench_jax.threats import certification
from robustbench_jax.types import Certificate, Certifier
from tests.certify.oracle import ExactLinear, ShyLinear, SmoothedLinear


def run(linear, certifier, ball="linf", eps=None, data=None, report=lambda settled: None):
    eps = float(np.median(linear.distance(ball))) if eps is None else eps
    budget = build("budget", f"{ball}({eps})")
    data = linear.data if data is None else data
    return eps, certification.run(jax.random.key(0), linear.model, data, certifier, budget, report=report)


def half_wrong(linear):
    """The data with every second label turned."""
    y = linear.data.y.copy()
    y[::2] = 1 - y[::2]
    return dataclasses.replace(linear.data, y=y)


@pytest.mark.parametrize("ball", ["linf", "l2"])
def test_the_exact_certifier_certifies_exactly_the_images_beyond_eps(linear, ball):
    eps, outcome = run(linear, ExactLinear(), ball)
    safe = linear.distance(ball) > eps * (1 + 1e-4)
    weak = linear.distance(ball) < eps * (1 - 1e-4)
    assert outcome.arrays["certified"][safe].all() and not outcome.arrays["certified"][weak].any()
    np.testing.assert_allclose(outcome.arrays["radius"], linear.distance(ball), rtol=1e-4, atol=1e-6)
    found = outcome.metrics["average_certified_radius"]
    assert found.value == pytest.approx(linear.distance(ball).mean(), rel=1e-4)
    assert found.low < found.value < found.high and found.n == 64


def test_in_linf_every_image_is_certified_or_broken_by_a_judged_counterexample(linear):
    _, outcome = run(linear, ExactLinear())
    certified, attacked = outcome.arrays["certified"], outcome.arrays["attacked"]
    assert not (certified & attacked).any()
    assert (certified | attacked).sum() >= 63  # the image at the median itself may be neither
    m = outcome.metrics
    assert m["certified_accuracy"].value == certified.mean() and m["clean_accuracy"].value == 1
    assert m["undecided"].value == np.mean(~certified & ~attacked)
    assert outcome.flags == ()


def test_counterexamples_that_do_not_break_the_model_do_not_count(linear):
    class Boasting(ExactLinear):
        """Says of every image that it is broken, by itself."""

        def certify(self, key, model, x, y, budget, **options):
            count, nothing = len(y), np.full(len(y), np.nan)
            return Certificate(np.zeros(count, bool), y, nothing, nothing, np.ones(count, bool), x / 255)

    _, outcome = run(linear, Boasting())
    assert not outcome.arrays["attacked"].any()
    assert outcome.metrics["undecided"].value == 1


def test_counterexamples_are_kept_inside_the_ball_where_they_broke_the_model(linear):
    eps, outcome = run(linear, ExactLinear())
    attacked, x = outcome.arrays["attacked"], linear.data.x / np.float32(255)
    moved = np.abs(outcome.arrays["x_adv"] - x).max(axis=(1, 2, 3))
    assert attacked.any() and (moved[attacked] > 0).all() and (moved <= eps * (1 + 1e-6)).all()
    assert (moved[~attacked] == 0).all()


def test_only_images_that_the_model_gets_right_are_asked_about_and_the_rest_has_radius_zero(linear):
    data, told = half_wrong(linear), []
    _, outcome = run(linear, ExactLinear(), data=data, report=told.append)
    right = np.arange(64) % 2 == 1
    np.testing.assert_array_equal(outcome.arrays["clean_correct"], right)
    assert not outcome.arrays["certified"][~right].any()
    assert np.isnan(outcome.arrays["radius"][~right]).all() and np.isnan(outcome.arrays["seconds"][~right]).all()
    expected = np.where(right, linear.distance("linf"), 0).mean()
    assert outcome.metrics["average_certified_radius"].value == pytest.approx(expected, rel=1e-4)
    assert outcome.metrics["certified_accuracy"].n == 64
    (stage,) = outcome.stages
    assert (stage["certifier"], stage["asked"], stage["branches"]) == ("exact_linear", 32, 3)
    assert outcome.counts == {"forward_evaluations": 64 + 32, "gradient_evaluations": 0}
    assert told == [64, 64]


def test_a_certifier_of_its_own_model_is_asked_about_all_and_abstentions_are_wrong(linear):
    data = half_wrong(linear)
    _, outcome = run(linear, SmoothedLinear(), data=data)
    ids = np.arange(64)
    right = (ids % 2 == 1) & (ids % 3 != 0)
    np.testing.assert_array_equal(outcome.arrays["clean_correct"], right)
    np.testing.assert_array_equal(outcome.arrays["prediction"] == -1, ids % 3 == 0)
    assert outcome.stages[0]["asked"] == 64
    assert outcome.metrics["failure_probability"].value == 0.001
    assert outcome.metrics["clean_accuracy"].value == right.mean()
    expected = np.where(right, linear.distance("linf"), 0).mean()
    assert outcome.metrics["average_certified_radius"].value == pytest.approx(expected, rel=1e-4)


def test_without_radii_there_is_no_average_and_without_times_no_seconds(linear):
    _, outcome = run(linear, ShyLinear())
    assert "average_certified_radius" not in outcome.metrics and "seconds" not in outcome.arrays
    assert np.isnan(outcome.arrays["radius"]).all()


def test_nothing_is_asked_where_the_model_gets_nothing_right(linear):
    data = dataclasses.replace(linear.data, y=1 - linear.data.y)
    _, outcome = run(linear, ExactLinear(), data=data)
    assert outcome.metrics["certified_accuracy"].value == 0
    assert outcome.stages[0]["asked"] == 0


class Lying(Certifier):
    """Certifies everything, breaks everything."""

    registered, own_prediction = ("certifier", "lying"), False

    def __init__(self, own: bool = False, radius: float = np.nan):
        self.own_prediction, self.radius = own, radius

    def certify(self, key, model, x, y, budget, **options):
        count = len(y)
        worst = ExactLinear().certify(key, model, x, y, budget, ids=None, runtime=None)
        prediction = np.zeros(count, int) if self.own_prediction else y
        radius = np.full(count, self.radius, np.float32)
        return Certificate(np.ones(count, bool), prediction, worst.margin, radius, worst.attacked, worst.x_adv)


def test_a_certificate_that_its_own_counterexample_breaks_is_flagged(linear):
    _, outcome = run(linear, Lying())
    (flag,) = outcome.flags
    both = np.flatnonzero(outcome.arrays["certified"] & outcome.arrays["attacked"])
    assert f"{len(both)} images (the first is {both[0]})" in flag and "broken by its own counterexample" in flag


def test_a_certificate_of_a_wrong_class_is_not_counted_and_flagged(linear):
    _, outcome = run(linear, Lying(own=True))
    np.testing.assert_array_equal(outcome.arrays["certified"], linear.data.y == 0)
    assert "certified though classified wrongly" in outcome.flags[0]
    assert not outcome.arrays["attacked"].any()  # they would be about another model


def test_an_infinite_radius_is_the_largest_distance_in_the_box(linear):
    _, outcome = run(linear, Lying(radius=np.inf), ball="l2", eps=1.0)
    np.testing.assert_array_equal(outcome.arrays["radius"], 6.0)  # 36 pixels, each moved by 1
