"""AttackBench's optimality on sizes whose areas are known."""

import numpy as np
import pytest

from robustbench_jax.bench.optimality import envelope, global_optimality, optimality, robust_accuracy_curve, table
from robustbench_jax.types import UserError

BEST = np.array([0.0, 1.0, 2.0, 4.0])  # the first is wrong from the start; eps_0 = 4, area (0 + 1 + 2 + 4) / 4


def reference(found, best):
    """The trapezoids of the authors' program, on which the definition here agrees up to its steps."""

    def curve(sizes):
        at, counts = np.unique(sizes, return_counts=True)
        return np.trapezoid(1 - counts.cumsum() / len(sizes), at)

    reach = best.max()
    least, nothing = curve(best), np.mean(best > 0) * reach
    return 1 - (curve(np.minimum(found, reach)) - least) / (nothing - least)


def test_the_best_attack_has_optimality_one_and_one_that_finds_nothing_zero():
    assert optimality(BEST, BEST) == 1
    assert optimality(np.array([0, np.nan, np.inf, np.nan]), BEST) == 0


def test_areas_are_those_under_the_steps():
    """Area 1.75 under the envelope, 3 under the line of nothing found; (0 + 2 + 2 + 4) / 4 = 2 under this attack."""
    assert optimality(np.array([0, 2, 2, 9.0]), BEST) == pytest.approx((3 - 2) / (3 - 1.75))


def test_many_images_give_what_the_authors_program_gives():
    rng = np.random.default_rng(0)
    best = np.concatenate([np.zeros(200), rng.exponential(1.0, 1800)])
    found = best * rng.uniform(1, 2, 2000)
    assert optimality(found, best) == pytest.approx(reference(found, best), abs=2e-3)


def test_the_envelope_takes_the_smallest_of_each_image():
    sizes = {"a": np.array([1, np.nan, 3.0]), "b": np.array([2, 5, np.inf])}
    np.testing.assert_array_equal(envelope(sizes), [1, 5, 3])


def test_the_table_is_ordered_and_its_best_may_be_below_one():
    """Sums of sizes: 5.5 for the envelope of both, 12 for nothing found, 6.5 for a, 6 for b."""
    scores = table({"a": np.array([0.5, 2, 4]), "b": np.array([1.0, 1, 4])})
    assert list(scores) == ["b", "a"]
    assert scores == {"b": pytest.approx(6 / 6.5), "a": pytest.approx(5.5 / 6.5)}


def test_scale_does_not_matter():
    found = np.array([0, 2, 2, 9.0])
    assert optimality(1000 * found, 1000 * BEST) == pytest.approx(optimality(found, BEST))


def test_where_nothing_was_broken_there_is_no_optimality():
    assert optimality(np.full(3, np.nan), np.full(3, np.inf)) is None
    assert optimality(np.zeros(3), np.zeros(3)) is None


def test_images_that_nobody_breaks_count_against_nobody():
    unbroken = np.append(BEST, np.inf)
    assert optimality(unbroken, unbroken) == 1


def test_an_envelope_that_is_beaten_is_refused():
    with pytest.raises(UserError, match="on 1 images the attack is better than the best"):
        optimality(np.array([0, 0.5, 2, 4]), BEST)


def test_attacks_on_different_images_are_refused():
    with pytest.raises(UserError, match="all on the same images"):
        envelope({"a": np.zeros(3), "b": np.zeros(4)})


def test_global_optimality_is_the_mean_over_models():
    assert global_optimality([0.5, 1.0]) == 0.75


def test_the_curve_falls_at_each_size():
    curve = robust_accuracy_curve(np.array([0, 1, 2, np.nan]), np.array([0, 0.5, 1, 2, 99]))
    np.testing.assert_array_equal(curve, [0.75, 0.75, 0.5, 0.25, 0.25])
