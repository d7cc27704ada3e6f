"""Tables of poisoning and of backdoors: pure functions of records.

One table for each dataset, budget and architecture; one row an attack and a defence, over the seeds that were run. With
one seed a number has its interval over images; with several it is their mean with Student's 95% interval (ddof = 1).
"""

from collections.abc import Iterable

import numpy as np

from robustbench_jax.bench.cells import Cell
from robustbench_jax.bench.groups import grouped, name
from robustbench_jax.bench.records import MetricValue, Record
from robustbench_jax.bench.sheets import Sheet
from robustbench_jax.ops.statistics import area_under_roc, t_interval
from robustbench_jax.registry import parse

COLUMNS = {
    "backdoor": {
        "Clean": "clean_accuracy",
        "ASR": "backdoor_success_rate",
        "RA": "triggered_accuracy",
        "Cross": "cross_trigger_accuracy",
        "DER": "defence_effectiveness",
        "Clean model": "clean_model_accuracy",
        "its ASR": "clean_model_success_rate",
        "TPR": "poisons_removed",
        "FPR": "clean_removed",
        "AUROC": "poison_auc",
    },
    "availability": {
        "Clean": "clean_accuracy",
        "Drop": "accuracy_drop",
        "Undefended": "undefended_accuracy",
        "Clean model": "clean_model_accuracy",
        "Subpopulation": "subpopulation_accuracy",
        "TPR": "poisons_removed",
        "FPR": "clean_removed",
        "AUROC": "poison_auc",
    },
    "byzantine": {"Accuracy": "clean_accuracy", "Drop": "accuracy_drop", "All honest": "clean_model_accuracy"},
    "targeted": {
        "Success": "poison_success_rate",
        "by chance": "clean_model_success_rate",
        "Victims": "victim_accuracy",
        "Clean model": "clean_model_accuracy",
    },
}
NOTES = {
    "backdoor": (
        "In %. Clean: accuracy on clean test images. ASR: triggered images that get the attacker's label, of those "
        "that do not have it. RA: triggered images classified correctly. Cross: so are images with "
        "another one's trigger. DER: defence effectiveness rating. Clean model: the same seed trained on clean data. "
        "TPR, FPR, AUROC: of the data defence."
    ),
    "availability": (
        "In %. Clean: accuracy of the victim on test images. Drop: of it, against the same seed trained on clean data. "
        "Undefended: before data or model were cleaned. TPR, FPR, AUROC: of the data defence."
    ),
    "byzantine": (
        "In %. Accuracy: of the model that clients train of whom some lie. All honest: of the same ones, none lying. "
        "The worst attack of a rule is its worst row."
    ),
    "targeted": (
        "In %. Success: targets taken for the intended class, each by a victim of its own. By chance: by the model "
        "trained on clean data. Victims: their mean accuracy on test images."
    ),
}
TITLES = {"backdoor": "backdoor", "byzantine": "Byzantine clients"} | {
    kind: f"{kind} poisoning" for kind in ("availability", "targeted")
}
THREATS = ("backdoor", "byzantine", "poisoning")
SPREAD = " One seed: interval over images; several: mean and 95% t-interval over seeds."


def sheets(records: Iterable[Record]) -> list[Sheet]:
    """Backdoors first, then availability, Byzantine clients, targeted poisoning and inspections."""
    done = [record for record in records if record.status == "ok" and record.cell.threat in THREATS]
    pages = []
    for kind, columns in COLUMNS.items():
        ours = [record for record in done if kind_of(record) == kind]
        for group in grouped(ours, lambda cell: (cell.dataset, cell.split, cell.examples)):
            pages.append(_sheet(kind, columns, group))
    return pages + _inspections(done)


def kind_of(record: Record) -> str:
    """Which of COLUMNS a record belongs to."""
    if record.cell.threat != "poisoning":
        return record.cell.threat
    return "targeted" if "poison_success_rate" in record.metrics else "availability"


def _sheet(kind: str, columns: dict[str, str], group: list[Record]) -> Sheet:
    shown = {head: metric for head, metric in columns.items() if any(metric in record.metrics for record in group)}
    rows = [
        [called(found[0].cell), *(over_seeds([record.metrics.get(it) for record in found]) for it in shown.values())]
        + [str(len(found))]
        for found in sorted(grouped(group, row_of), key=_place)
    ]
    title = f"{group[0].cell.show('dataset')} · {TITLES[kind]}"
    return Sheet(title, NOTES[kind] + SPREAD, ["Attack · victim", *shown, "Seeds"], rows)


def over_seeds(values: list[MetricValue | None]) -> str:
    """ "84.0 [82.1, 85.9]", in per cent."""
    known = [value for value in values if value is not None and value.value is not None]
    if not known:
        return "–"
    mean, low, high = known[0].value, known[0].low, known[0].high
    if len(known) > 1:
        mean, (low, high) = t_interval(np.array([value.value for value in known]))
        least = 0.0 if all(value.low is not None and value.low >= 0 for value in known) else -1.0
        low, high = max(low, least), min(high, 1.0)  # no share is below 0 or above 1
    return f"{100 * mean:.1f}" + ("" if low is None else f" [{100 * low:.1f}, {100 * high:.1f}]")


def row_of(cell: Cell) -> tuple:
    """Everything that names a row; the seed does not."""
    return tuple(value for field, value in cell.model_dump().items() if field not in ("seed", "inspection"))


def _place(found: list[Record]) -> tuple:
    """Rows by attack, then by its budget as a number, then by victim."""
    cell = found[0].cell
    return cell.attack, [value for _, value in parse(cell.budget).kwargs], name(cell)


def called(cell: Cell) -> str:
    return f"{cell.method} · {cell.show('budget')} · {name(cell)}"


def _inspections(done: list[Record]) -> list[Sheet]:
    """Scores of poisoned models against those of clean ones, for each inspection and architecture."""
    ours = [record for record in done if record.cell.inspection and "anomaly_score" in record.metrics]
    pages = []
    for group in grouped(ours, lambda c: (c.dataset, c.model, c.defence, c.recipe, c.data_defence, c.inspection)):
        clean = [record for record in group if not record.metrics["poisons"].value]
        rows = [_inspected(found, clean) for found in grouped(group, lambda cell: (cell.attack, cell.budget))]
        cell = group[0].cell
        title = f"{cell.show('dataset')} · {name(cell)} · {cell.show('inspection')}"
        note = (
            "AUROC: of the anomaly scores of the row's models against those of models trained on clean data (no "
            "poisons), with Newcombe's 95% interval. Accused: share of models of which a class was accused, or which "
            "were taken for backdoored. Mask, Overlap: median size in pixels of the mask recovered for the attacker's "
            "class, and median share that it has in common with the true one."
        )
        pages.append(
            Sheet(title, note, ["Attack", "Models", "Median score", "Accused", "AUROC", "Mask", "Overlap"], rows)
        )
    return pages


def _inspected(found: list[Record], clean: list[Record]) -> list[str]:
    scores, baseline = ([record.metrics["anomaly_score"].value for record in of] for of in (found, clean))
    accused = np.mean([record.metrics["accused_classes"].value > 0 for record in found])
    poisoned = bool(found[0].metrics["poisons"].value)
    shown = "–"
    if poisoned and baseline:
        area, (low, high) = area_under_roc(np.array(baseline), np.array(scores))
        shown = f"{area:.2f} [{low:.2f}, {high:.2f}]"
    called = f"{found[0].cell.method} · {found[0].cell.show('budget')}" + ("" if poisoned else " (clean)")
    masks = [_median(found, name, form) for name, form in (("mask_norm", "{:.1f}"), ("mask_overlap", "{:.2f}"))]
    return [called, str(len(found)), f"{np.median(scores):.2f}", f"{100 * accused:.0f}%", shown, *masks]


def _median(found: list[Record], name: str, form: str) -> str:
    values = [record.metrics[name].value for record in found if name in record.metrics]
    return form.format(np.median(values)) if values else "–"
