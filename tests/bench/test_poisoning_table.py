"""Tables of poisoning: rows over seeds, and inspections against clean models."""

import numpy as np
import pytest

from robustbench_jax.bench import poisoning_table
from robustbench_jax.bench.cells import Cell, make_cell
from robustbench_jax.bench.collisions import collisions
from robustbench_jax.bench.records import MetricValue, Record
from robustbench_jax.metrics import number, proportion
from robustbench_jax.types import UserError

FIELDS = {"dataset": "fashion_mnist_mini", "model": "cnn", "attack": "badnets", "budget": "rate(0.05)"}


def made_up(
    success: float = 0.9, accuracy: float = 0.8, score: float | None = None, poisons: int = 5, mask=(), **cell
) -> Record:
    """A backdoor's record over ten images."""
    cell = make_cell(**FIELDS | cell)
    fooled, right = (np.arange(10) < round(10 * share) for share in (success, accuracy))
    metrics = {
        "backdoor_success_rate": proportion("backdoor_success_rate", fooled),
        "clean_accuracy": proportion("clean_accuracy", right),
        "poisons": number("poisons", poisons, 100),
    }
    if score is not None:
        metrics |= {"anomaly_score": number("anomaly_score", score, 1)}
        metrics |= {"accused_classes": number("accused_classes", float(score > 2), 10)}
    metrics |= {name: number(name, value, 1) for name, value in zip(("mask_norm", "mask_overlap"), mask, strict=False)}
    return Record(
        id=cell.id,
        cell=cell,
        metrics={name: MetricValue(**vars(metric)) for name, metric in metrics.items()},
        per_example={"clean_correct": right.tolist(), "fooled": fooled.tolist()},
    )


def test_one_seed_has_its_interval_over_images_and_several_that_over_seeds():
    (page,) = poisoning_table.sheets([made_up()])
    assert page.title == "fashion_mnist_mini · backdoor" and page.head == ["Attack · victim", "Clean", "ASR", "Seeds"]
    assert page.rows == [["badnets · rate(0.05) · cnn + standard", "80.0 [44.4, 97.5]", "90.0 [55.5, 99.7]", "1"]]
    (page,) = poisoning_table.sheets([made_up(seed=0), made_up(0.7, seed=1)])
    assert page.rows[0][1:] == ["80.0 [80.0, 80.0]", "80.0 [0.0, 100.0]", "2"]


def test_another_defence_or_budget_is_another_row():
    """In the order of their numbers: 0.05 before 0.1, and 1e-05 before both."""
    budgets = ("rate(0.1)", "rate(0.05)", "rate(1e-05)")
    found = [made_up(defence="standard(label_smoothing=0.1)"), *(made_up(budget=budget) for budget in budgets)]
    (page,) = poisoning_table.sheets(found)
    assert [row[0].split(" · ")[1] for row in page.rows] == ["rate(1e-05)", "rate(0.05)", "rate(0.05)", "rate(0.1)"]


def test_inspections_are_compared_with_models_of_clean_data(monkeypatch):
    monkeypatch.setattr(Cell, "show", lambda self, field: getattr(self, field))
    fields = {"inspection": "neural_cleanse", "dataset": "d", "model": "cnn", "defence": "standard"}
    found = []
    for seed, (clean, bad) in enumerate([(1.0, 3.0), (2.5, 4.0), (1.5, 2.0)]):
        poisoned = made_up(score=bad, mask=(8.0 + seed, 0.5))
        for record, budget in ((made_up(0, score=clean, poisons=0), "rate(0)"), (poisoned, "rate(0.05)")):
            cell = record.cell.model_copy(update=fields | {"budget": budget, "seed": seed})
            found.append(record.model_copy(update={"cell": cell}))
    page = poisoning_table.sheets(found)[-1]
    clean, bad = page.rows
    assert clean[1:] == ["3", "1.50", "33%", "–", "–", "–"] and clean[0].endswith("(clean)")
    assert bad[1:4] == ["3", "3.00", "67%"] and bad[4].startswith("0.89 [") and bad[5:] == ["9.0", "0.50"]


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"model": "fashion_mnist/clean/standard"}, "is trained already: threat 'backdoor' trains models of its own"),
        ({"budget": "linf(0.1)"}, "attack 'badnets' takes no budget 'linf'"),
        ({"budget": "rate(2)"}, "rate: p = 2.0 must be from 0 to 1"),
        ({"attack": "badnet"}, "did you mean 'badnets'"),
        ({"attack": "pgd", "budget": "linf(0.1)", "data_defence": "nothing"}, "no data_defence 'nothing'"),
        ({"attack": "pgd", "budget": "linf(0.1)", "data_defence": "deep_knn"}, "threat 'evasion' has no use for it"),
        ({"attack": "label_flip", "inspection": "neural_cleanse"}, "threat 'poisoning' has no use for it"),
        ({"attack": "ipm", "budget": "byzantine(2)", "model_defence": "clp"}, "threat 'byzantine' has no use for it"),
        (
            {"attack": "multi_run_audit", "budget": "runs(8)", "model_defence": "jpeg(75)"},
            "threat 'repeated_audit' has no use for it",
        ),
        ({"attack": "wanet_noise", "data_defence": "deep_knn"}, "the attacker runs the training"),
    ],
)
def test_cells_that_cannot_be_run_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        make_cell(**FIELDS | fields)


FLIP = {
    "attack": "adversarial_label_flip",
    "budget": "count(4)",
    "model": "mlp",
    "defence": "partitioned(partitions=9)",
}


def poisoned(robust, **fields):
    cell = make_cell(**FIELDS | FLIP | fields)
    metrics = {"clean_model_accuracy": proportion("clean_model_accuracy", np.ones(4, bool))}
    metrics["poisons"] = number("poisons", 4, 100)
    return Record(
        id=cell.id,
        cell=cell,
        metrics={name: MetricValue(**vars(metric)) for name, metric in metrics.items()},
        per_example={"clean_correct": [True] * 4, "robust": robust},
        provenance={"data": "d"},
    )


def certified(radius, certifier="deep_partition", **fields):
    fields = {**FLIP, "attack": "", "certifier": certifier, **fields}
    cell = make_cell(**{k: v for k, v in (FIELDS | fields).items() if v})
    found = {name: number(name, 1.0, 4) for name in ("clean_accuracy", "certified_accuracy", "failure_probability")}
    return Record(
        id=cell.id,
        cell=cell,
        metrics={name: MetricValue(**vars(metric)) for name, metric in found.items()},
        per_example={"clean_correct": [True] * 4, "certified": [True] * 4, "radius": radius},
        provenance={"data": "d"},
    )


def test_an_image_that_is_certified_for_the_poisons_that_break_it_is_an_alarm():
    attack = poisoned([True, False, False, False])
    (line,) = collisions([attack, certified([9, 3, 4, 5])])
    assert "certified for 4 poisons" in line and "images 2, 3 wrong" in line
    assert not collisions([attack, certified([9, 3, 3, 3])])
    assert not collisions([attack, certified([9] * 4, "run_off_election")])
    assert not collisions([attack, certified([9] * 4, seed=1)])


def test_a_poison_whose_image_changes_counts_twice():
    attack = poisoned([True, True, True, False], attack="unlearnable_examples")
    assert not collisions([attack, certified([7] * 4)]) and collisions([attack, certified([8] * 4)])
