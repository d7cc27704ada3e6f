"""Leaderboards: the worst case is an AND, ranks are earned, and what cannot be true raises an alarm."""

import numpy as np
import pytest
from scipy import stats

from robustbench_jax.bench.curves import along_eps
from robustbench_jax.bench.leaderboard import alarms, tables
from tests.bench.made_up import first, made_up, made_up_failure


def only_table(records):
    (table,) = tables(records)
    return table


def test_the_worst_case_is_the_and_over_attacks_with_its_own_exact_interval():
    a, b = first(60), ~first(40)  # 60 and 60 images; both hold on images 40 to 59
    (row,) = only_table([made_up(a), made_up(b, attack="fgsm")]).rows
    exact = stats.binomtest(20, 100).proportion_ci(0.95, "exact")
    assert (row.worst.value, row.worst.n) == (0.2, 100)
    assert (row.worst.low, row.worst.high) == pytest.approx((exact.low, exact.high))
    assert {name: m.value for name, m in row.attacks.items()} == {"pgd": 0.6, "fgsm": 0.6}


def test_rows_stand_by_worst_case_and_attacks_from_the_weakest_to_the_strongest():
    records = [
        made_up(first(value), model=model, attack=attack)
        for model, values in (("mlp", (90, 30)), ("cnn", (80, 70)))
        for attack, value in zip(("fgsm", "pgd(steps=40)"), values, strict=True)
    ]
    table = only_table(records[::-1])
    assert [row.model for row in table.rows] == ["cnn", "mlp"]
    assert table.attacks == ["fgsm", "pgd"]
    assert [row.rank for row in table.rows] == ["1", "2"]


@pytest.mark.parametrize("other, rank", [(95, "1"), (94, "2")], ids=["5 discordant", "6 discordant"])
def test_neighbours_share_a_rank_until_mcnemar_tells_them_apart(other, rank):
    """k images on one side only: p = 2 / 2**k, 0.0625 for five and 0.03125 for six."""
    rows = only_table([made_up(first(100)), made_up(first(other), model="cnn")]).rows
    assert rows[1].p_value == pytest.approx(2 / 2 ** (100 - other))
    assert [row.rank for row in rows] == ["1", rank]


def test_the_rank_after_a_shared_one_counts_the_rows_above():
    values = {"mlp": 90, "cnn": 89, "resnet20": 50}
    rows = only_table([made_up(first(value), model=model) for model, value in values.items()]).rows
    assert [row.rank for row in rows] == ["1", "1", "3"]


@pytest.mark.parametrize("lacking", [[], [made_up_failure(model="cnn")]], ids=["missing", "failed"])
def test_a_row_that_lacks_an_attack_has_a_bound_and_no_rank(lacking):
    """It withstood only noise: 95% is no worst case, and must not beat 50% under PGD."""
    noise = "uniform_noise(steps=10)"
    records = [made_up(first(95), attack=noise), made_up(first(50)), made_up(first(95), attack=noise, model="cnn")]
    rows = only_table(records + lacking).rows
    assert [(row.model, row.rank, row.complete) for row in rows] == [("mlp", "1", True), ("cnn", "–", False)]
    assert (rows[1].attacks["pgd"], rows[1].p_value) == (None, None)
    assert rows[1].failed == ({"pgd"} if lacking else set())


def test_a_model_that_only_failed_is_a_row_without_numbers():
    (row,) = only_table([made_up_failure()]).rows
    assert (row.rank, row.clean, row.worst, row.attacks, row.failed) == ("–", None, None, {"pgd": None}, {"pgd"})


@pytest.mark.parametrize(
    "other",
    [{"data": "d1"}, {"weights": "w1"}, {"robust": first(10, 50)}],
    ids=["other images", "other weights", "another number of images"],
)
def test_results_of_different_images_or_weights_have_no_worst_case_and_raise_an_alarm(other):
    records = [made_up(first(90)), made_up(**{"robust": first(80), "attack": "fgsm"} | other)]
    (row,) = only_table(records).rows
    assert (row.worst, row.rank) == (None, "–")
    (alarm,) = alarms(records)
    assert "different images or weights" in alarm and "mlp · linf(0.1)" in alarm


def test_rows_of_different_images_are_not_compared():
    rows = only_table([made_up(first(90)), made_up(first(90), model="cnn", data="d1")]).rows
    assert [(row.rank, row.p_value) for row in rows] == [("1", None), ("2", None)]


def test_two_recipes_are_two_rows_and_two_curves():
    records = [
        made_up(
            first(value), model="cnn", defence="standard", recipe=f"sgd(epochs={epochs})", budget=f"linf(eps={eps})"
        )
        for epochs, value in ((1, 10), (9, 90))
        for eps in (0.1, 0.2)
    ]
    for table in tables(records):
        assert [row.model for row in table.rows] == ["cnn + standard + sgd(9)", "cnn + standard + sgd(1)"]
    assert [[point.at for point in curve.points] for curve in along_eps(records)] == [[0, 0.1, 0.2]] * 2


def test_every_threat_model_has_its_own_table_with_its_own_title():
    records = [
        made_up(first(9, 10)),
        made_up(first(9, 10), budget="linf(eps=0.2)"),
        made_up(first(9, 10), budget="l2(eps=1.0)"),
        made_up(first(9, 10), seed=3),
        made_up(first(9, 10), split="train"),
    ]
    base = "fashion_mnist_mini · "
    titles = [f"{base}l2(1.0)", f"{base}linf(0.1)", f"{base}linf(0.1) · seed 3", f"{base}linf(0.1) · train"]
    assert [table.title for table in tables(records)] == [*titles, f"{base}linf(0.2)"]


def test_a_curve_begins_with_clean_accuracy_and_runs_along_the_radius():
    clean = first(95)
    values = {0.2: 30, 0.05: 80, 0.1: 60}
    (curve,) = along_eps([made_up(first(v), clean=clean, budget=f"linf(eps={eps})") for eps, v in values.items()])
    assert [(p.at, p.metric.value) for p in curve.points] == [(0, 0.95), (0.05, 0.8), (0.1, 0.6), (0.2, 0.3)]
    assert (curve.model, curve.attack, curve.axis) == ("mlp", "pgd", "linf")


def test_one_radius_is_no_curve_and_two_balls_are_never_one():
    assert along_eps([made_up(first(9)), made_up(first(9), budget="l2(eps=1.0)"), made_up_failure()]) == []


def test_honest_records_raise_no_alarm():
    records = [made_up(first(90 - 100 * eps), budget=f"linf(eps={eps})") for eps in (0.1, 0.2, 0.3)]
    assert alarms([*records, made_up(first(95), attack="uniform_noise(steps=10)"), made_up_failure(model="cnn")]) == []


def test_more_robust_than_right_is_an_alarm():
    (alarm,) = alarms([made_up(first(90), clean=first(89))])
    assert alarm == "mlp · pgd · linf(0.1): more examples robust than classified correctly"


def test_robust_accuracy_that_rises_with_the_radius_is_an_alarm():
    (alarm,) = alarms([made_up(first(80), budget="linf(eps=0.2)"), made_up(first(50))])
    assert alarm.startswith("mlp · pgd · linf(0.2): more robust than at linf(0.1)")


def test_an_attack_with_gradients_that_is_weaker_than_noise_is_an_alarm():
    noise = made_up(first(50), attack="uniform_noise(steps=10)")
    (alarm,) = alarms([noise, made_up(first(80))])
    assert alarm.startswith("mlp · pgd · linf(0.1): weaker than uniform_noise(10)")


def test_what_chance_does_raises_few_alarms():
    """Twelve radii, no trend: at the 5% level over all comparisons, at most a few of 40 such sweeps (8 without)."""
    rng = np.random.default_rng(0)
    sweeps = [
        [
            made_up(rng.random(200) < 0.8, attack="uniform_noise(steps=10)", budget=f"linf(eps={k / 100})")
            for k in range(12)
        ]
        for _ in range(40)
    ]
    assert sum(bool(alarms(records)) for records in sweeps) <= 4


def test_records_of_things_that_this_version_lacks_are_still_shown():
    record = made_up(first(9, 10), model="lost/in/time", attack="lost(steps=1)", budget="lost(eps=1)")
    (row,) = only_table([record]).rows
    assert (row.model, row.worst.value, list(row.attacks)) == ("lost/in/time", 0.9, ["lost(steps=1)"])
    assert along_eps([record]) == [] and alarms([record]) == []
