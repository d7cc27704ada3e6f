"""Severity: a whole number from 1 to 5 and nothing else."""

import jax
import numpy as np
import pytest

from robustbench_jax.ops.severity import LEVELS, Severity, Unchanged
from robustbench_jax.registry import build, canonical
from robustbench_jax.types import UserError


@pytest.mark.parametrize("level", LEVELS)
def test_the_five_levels_are_accepted(level):
    assert build("budget", f"severity({level})").level == level


@pytest.mark.parametrize("level, nearest", [(0, 1), (6, 5), (-3, 1), (100, 5)])
def test_any_other_level_is_refused_with_the_nearest(level, nearest):
    with pytest.raises(
        UserError, match=rf"severity: level = {level} must be 1 to 5; did you mean severity\({nearest}\)"
    ):
        build("budget", f"severity({level})")


@pytest.mark.parametrize("text", ["severity(2.5)", "severity(True)", "severity('3')", "severity"])
def test_what_is_no_whole_number_is_refused(text):
    with pytest.raises(UserError, match="level"):
        build("budget", text)


def test_nan_and_infinity_are_refused_from_python_too():
    for level in (float("nan"), float("inf"), 2.5):
        with pytest.raises(UserError, match="must be 1 to 5"):
            Severity(level)


def test_another_level_is_another_number_in_the_same_program():
    assert jax.tree.structure(Severity(1)) == jax.tree.structure(Severity(5))
    assert jax.tree.leaves(Severity(4)) == [4]


def test_points_of_the_budget_are_images():
    x = np.ones((2, 2, 1))
    for budget in (Severity(3), Unchanged()):
        assert budget.identity(x) is x and budget.render(x, 2 * x).max() == 2


def test_the_same_level_has_one_name():
    assert canonical("budget", "severity(3)") == canonical("budget", "severity(level=3)") == "severity(level=3)"
    assert canonical("budget", "unchanged") == "unchanged"
