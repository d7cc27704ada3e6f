"""Heat maps of aggregation rules: the worst attack of a mean over seeds, and nothing where attacks are missing."""

import pytest

from robustbench_jax.bench import worst_cases, worst_plots
from robustbench_jax.bench.cells import make_cell
from robustbench_jax.bench.records import MetricValue, Record

FIELDS = {"dataset": "fashion_mnist_mini", "model": "mlp([])"}


def record(accuracy, attack="ipm", f=2, rule="krum", seed=0, more=""):
    cell = make_cell(**FIELDS, defence=f"federated({rule}{more})", attack=attack, budget=f"byzantine({f})", seed=seed)
    metrics = {"clean_accuracy": MetricValue(value=accuracy, n=1, low=0.0, high=1.0)}
    metrics["clean_model_accuracy"] = metrics["clean_accuracy"]
    per_example = {"clean_correct": [True], "robust": [True]}
    return Record(id=cell.id, cell=cell, metrics=metrics, per_example=per_example)


def grid():
    """Two rules, two attacks, two seeds: for krum alie is worse on average, though ipm has the lowest single value."""
    found = [record(a, "ipm", seed=s) for s, a in enumerate((0.2, 0.9))]
    found += [record(a, "alie", seed=s) for s, a in enumerate((0.5, 0.5))]
    return found + [record(0.7, a, rule="nnm(krum)", seed=s) for a in ("ipm", "alie") for s in (0, 1)]


def test_the_worst_attack_is_the_lowest_mean_over_seeds():
    (it,) = worst_cases.maps(grid())
    assert it.rules == ("krum", "nnm(krum)") and it.columns == (("", 2),)
    worst = it.places["krum", ("", 2)]
    assert worst.value == pytest.approx(0.5) and worst.attack == "alie"
    assert it.title == "fashion_mnist_mini · mlp([])"


def test_a_place_that_lacks_an_attack_is_left_empty_and_ways_to_deal_are_columns_of_their_own():
    unlike = [record(0.3, a, rule=r, more=", classes_each=2") for a in ("ipm", "alie") for r in ("krum", "mean")]
    (found,) = worst_cases.maps([*unlike, *grid(), record(0.1, "ipm", f=4)])
    assert found.columns == (("", 2), ("classes_each=2", 2)) and found.rules == ("krum", "mean", "nnm(krum)")
    assert ("mean", ("", 2)) not in found.places
    assert found.places["mean", ("classes_each=2", 2)].value == pytest.approx(0.3)
    pictures = worst_plots.picture([found])
    assert pictures["png"].startswith(b"\x89PNG") and set(pictures) == {"png", "svg"}


def test_one_rule_or_one_attack_makes_no_map():
    assert worst_cases.maps(grid()[:4]) == [] and worst_cases.maps([]) == []
    assert worst_cases.maps([it for it in grid() if "ipm" in it.cell.attack]) == []
