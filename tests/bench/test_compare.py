"""compare, spreads over seeds and costs: made-up records against the numbers of NumPy and SciPy."""

import numpy as np
import pytest
from scipy import stats

from robustbench_jax.bench import cost, seeds
from robustbench_jax.bench.compare import compare, find, sheet
from robustbench_jax.ops.statistics import paired_difference, t_interval
from robustbench_jax.types import UserError
from tests.bench.made_up import first, made_up, made_up_failure

RNG = np.random.default_rng(0)


def newcombe(a, b):
    """Method 10 from its formulas, with the Wilson interval written out."""
    n, z = len(a), stats.norm.ppf(0.975)

    def wilson(p):
        middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)

    (e, f), (g, h) = [[np.sum((a == i) & (b == j)) for j in (1, 0)] for i in (1, 0)]
    product, below = e * h - f * g, np.sqrt(float((e + f) * (g + h) * (e + g) * (f + h)))
    phi = 0.0 if below == 0 else (max(product - n / 2, 0) if product > 0 else product) / below
    (l1, u1), (l2, u2), d = wilson(a.mean()), wilson(b.mean()), a.mean() - b.mean()
    p1, p2 = a.mean(), b.mean()
    low = d - np.sqrt((p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2)
    high = d + np.sqrt((p2 - l2) ** 2 - 2 * phi * (p2 - l2) * (u1 - p1) + (u1 - p1) ** 2)
    return d, low, high


@pytest.mark.parametrize("agreement", [0.0, 0.5, 0.95])
def test_the_paired_interval_is_newcombes(agreement):
    a = RNG.random(60) < 0.6
    b = np.where(RNG.random(60) < agreement, a, RNG.random(60) < 0.4)
    found, (low, high) = paired_difference(a, b)
    np.testing.assert_allclose((found, low, high), newcombe(a, b), atol=1e-12)


def test_the_paired_interval_covers_as_it_says():
    """Correlated pairs with a true difference of 0.7 x 0.2, 1,000 samples of 50."""
    hits = 0
    for _ in range(1000):
        a = RNG.random(50) < 0.7
        low, high = paired_difference(a, a & (RNG.random(50) > 0.2))[1]
        hits += low <= 0.7 * 0.2 <= high
    assert 0.925 < hits / 1000 < 0.985


def test_equal_arrays_have_an_interval_around_zero_and_opposite_ones_reach_no_further_than_one():
    ones, zeros = np.ones(20, bool), np.zeros(20, bool)
    assert paired_difference(ones, zeros)[0] == 1 and paired_difference(ones, zeros)[1].high <= 1
    low, high = paired_difference(ones, ones)[1]
    assert low < 0 < high and high == pytest.approx(-low)
    with pytest.raises(UserError, match="needs the same examples"):
        paired_difference(ones, zeros[:3])


def test_the_t_interval_is_scipys():
    values = np.array([0.5, 0.6, 0.55])
    low, high = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    mean, found = t_interval(values)
    np.testing.assert_allclose((mean, *found), (values.mean(), low, high))
    with pytest.raises(UserError, match="over one value"):
        t_interval(np.array([0.5]))


def two(seed=0, **more):
    """Worst cases of 60 and of 45 of 100, each over two attacks of which one is stronger."""
    made = [("mlp", 60, "pgd(steps=40)"), ("mlp", 80, "fgsm"), ("cnn", 45, "pgd(steps=40)"), ("cnn", 95, "fgsm")]
    return [
        made_up(first(count), model=model, attack=attack, seed=seed, weights=f"{model}{seed}", **more)
        for model, count, attack in made
    ]


def test_worst_cases_are_compared_over_the_attacks_that_both_have():
    more = made_up(first(1), model="mlp", attack="square", weights="mlp0")
    (found,), over = compare([*two(), more], "mlp", "cnn")
    assert over == [] and found.attacks == ("pgd", "fgsm")
    assert (found.a, found.b, found.only_a, found.only_b, found.n) == (0.6, 0.45, 15, 0, 100)
    expected = newcombe(first(60), first(45))
    np.testing.assert_allclose((found.difference, found.low, found.high), expected, atol=1e-12)
    assert found.p_value == pytest.approx(stats.binomtest(15, 15).pvalue)
    page = sheet([found], over, "mlp", "cnn")
    assert page.rows[0][2:5] == ["60.0", "45.0", f"+15.0 [{100 * expected[1]:+.1f}, {100 * expected[2]:+.1f}]"]


def test_several_seeds_have_a_mean_difference_with_an_interval_over_seeds():
    third = [made_up(first(n), model=m, seed=2, weights=f"{m}2") for m, n in (("mlp", 50), ("cnn", 47))]
    found, (over,) = compare([*two(), *two(seed=1), *third], "mlp", "cnn")
    mean, (low, high) = t_interval(np.array([0.15, 0.15, 0.03]))
    assert len(found) == 3 and over.seeds == 3
    np.testing.assert_allclose((over.difference, over.low, over.high), (mean, low, high))


def test_names_are_as_tables_show_them_or_call_strings_and_wrong_ones_are_named():
    records = [*two(), made_up(first(3), model="mlp(widths=[8])", defence="standard", recipe="sgd", attack="fgsm")]
    assert find(records, "mlp([8])") == find(records, "mlp(widths=[8]) + standard")
    with pytest.raises(UserError, match="no model 'mpl' among the records; did you mean 'mlp'?"):
        compare(records, "mpl", "cnn")
    with pytest.raises(UserError, match="are the same model"):
        compare(records, "mlp", "mlp")


def test_what_has_nothing_in_common_is_said():
    apart = [made_up(first(5), model="mlp"), made_up(first(5), model="cnn", attack="fgsm")]
    other = [made_up(first(5), model="mlp"), made_up(first(5), model="cnn", data="d1")]
    for records in (apart, other):
        with pytest.raises(UserError, match="have no attack in common"):
            compare(records, "mlp", "cnn")


def test_the_sheet_of_seeds_has_means_and_the_deviation_with_ddof_one():
    counts = (60, 70, 80)
    records = [made_up(first(n), seed=i, weights=f"w{i}") for i, n in enumerate(counts)]
    records += [made_up(first(n - 20), seed=i, weights=f"w{i}", attack="fgsm") for i, n in enumerate(counts[:2])]
    (page,) = seeds.sheets([*records, made_up(first(3), model="cnn"), made_up_failure(seed=4)])
    mean, (low, high) = t_interval(np.array([0.6, 0.7, 0.8]))
    assert page.rows[0] == ["mlp", "pgd", f"70.0 [{100 * low:.1f}, {100 * high:.1f}]", "10.0", "3", "3"]
    assert page.rows[1][1] == "fgsm" and page.rows[1][4] == "2"
    assert page.rows[2][1] == "worst case" and page.rows[2][2].startswith("45.0 [") and page.rows[2][4] == "2"
    assert seeds.sheets([made_up(first(3))]) == []


def timed(training=None, inference=0.0, **cell):
    made = made_up(first(3), **{"recipe": "sgd"} | cell)
    more = {} if training is None else {"training": {"seconds": 10.0, "steps": 5, "step_s": training}}
    timing = made.timing.model_copy(update={"inference_s": inference})
    return made.model_copy(update={"timing": timing, "provenance": made.provenance | more})


def test_costs_are_multiples_of_standard_training_and_of_the_undefended_model():
    records = [
        timed(0.1, 0.001, defence="standard"),
        timed(0.7, 0.001, defence="ibp"),
        timed(0.1, 0.003, defence="standard", model_defence="bit_depth(bits=4)"),
        timed(0.9, 0.002, defence="ibp", recipe="sgd(epochs=7)"),
    ]
    (page,) = cost.sheets([*records, made_up_failure()])
    assert page.title == "fashion_mnist_mini · 2 × cpu · cost"
    assert [row[1:] for row in page.rows] == [
        ["0.1", "1.00", "1", "1.00"],
        ["0.7", "7.00", "1", "1.00"],
        ["0.1", "1.00", "3", "3.00"],
        ["0.9", "–", "2", "1.00"],
    ]


def test_records_that_measured_no_cost_have_no_sheet_of_it():
    assert cost.sheets([made_up(first(3))]) == []
