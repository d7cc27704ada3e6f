"""Curves from records: dense ones from minimal-norm attacks, and those against the queries."""

import numpy as np
import pytest

from robustbench_jax.bench import plots
from robustbench_jax.bench.curves import along_eps, along_queries
from tests.bench.made_up import first, made_up

CLEAN = first(8, 10)
SIZES = [0.1, 0.2, 0.3, 0.4, None, None, None, None, None, None]  # two that are wrong, four that survive
SPENT = [1, 10, 10, 50, 100, 100, 100, 100, 0, 0]


def measured(attack: str, budget: str, **arrays):
    robust = CLEAN & np.array([size is None for size in SIZES])
    record = made_up(robust, clean=CLEAN, attack=attack, budget=budget)
    return record.model_copy(update={"per_example": record.per_example | arrays})


def test_an_attack_for_the_smallest_perturbation_gives_a_whole_curve_from_one_record():
    (curve,) = along_eps([measured("fab()", "linf(eps=1.0)", size=SIZES)])
    assert (curve.axis, curve.attack, curve.points[0].at, curve.points[0].metric.value) == ("linf", "fab", 0, 0.8)
    assert curve.points[-1].at == pytest.approx(0.4) and curve.points[-1].metric.value == pytest.approx(0.4)
    at = {round(point.at, 4): point.metric.value for point in curve.points}
    assert at[0.2] == pytest.approx(0.6) and at[0.3] == pytest.approx(0.5)
    values = [point.metric.value for point in curve.points]
    assert values == sorted(values, reverse=True) and len(values) > 20
    assert all(point.metric.low <= point.metric.value <= point.metric.high for point in curve.points)


def test_of_several_radii_of_such_an_attack_the_largest_gives_the_curve():
    small = measured("fab()", "linf(eps=0.15)", size=[0.1] + [None] * 9)
    (curve,) = along_eps([measured("fab()", "linf(eps=1.0)", size=SIZES), small])
    assert curve.points[-1].at == pytest.approx(0.4)


def test_accuracy_after_a_number_of_queries_counts_who_was_broken_by_then():
    (curve,) = along_queries([measured("square(queries=100)", "linf(eps=0.1)", forwards=SPENT)])
    assert (curve.axis, curve.budget) == ("queries", "linf(0.1)")
    at = {point.at: point.metric.value for point in curve.points}
    assert at[1] == pytest.approx(0.7) and at[100] == pytest.approx(0.4)
    assert min(value for count, value in at.items() if count < 10) == pytest.approx(0.7)
    assert max(value for count, value in at.items() if 10 <= count < 50) == pytest.approx(0.5)


def test_gradient_attacks_and_records_without_counts_have_no_curve_against_queries():
    assert along_queries([measured("pgd()", "linf(eps=0.1)", forwards=SPENT)]) == []
    assert along_queries([measured("square(queries=100)", "linf(eps=0.1)")]) == []


def test_both_kinds_are_drawn():
    lines = along_queries([measured("square(queries=100)", "linf(eps=0.1)", forwards=SPENT)])
    lines += along_eps([measured("fab()", "linf(eps=1.0)", size=SIZES)])
    pictures = plots.curves(lines)
    assert pictures["png"].startswith(b"\x89PNG")
    assert set(pictures) == {"png", "svg"}
