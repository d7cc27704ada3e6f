"""Tables of privacy: membership and attribute inference, audits and reconstructions; pure functions of records.

One table for each dataset and architecture; one row an attack and a training, over the seeds that were run (see
poisoning_table.over_seeds).
"""

from collections.abc import Iterable

from robustbench_jax.bench.cells import AUDITS
from robustbench_jax.bench.groups import grouped, name
from robustbench_jax.bench.poisoning_table import SPREAD, called, over_seeds, row_of
from robustbench_jax.bench.records import Record
from robustbench_jax.bench.sheets import Sheet
from robustbench_jax.registry import parse

COLUMNS = {
    "AUC": "membership_auc",
    "TPR @ 1%": "membership_tpr_1",
    "TPR @ 0.1%": "membership_tpr_01",
    "TPR @ 0.01%": "membership_tpr_001",
    "Advantage": "membership_advantage",
    "Train": "train_accuracy",
    "Held out": "held_out_accuracy",
}
BOUNDS = ("epsilon_lower", "epsilon_lower_fdp", "epsilon_gaussian", "epsilon")
NOTE = (
    "In %. TPR @: members found where at most so many of the others are taken for members; – where these are too few "
    "to tell such a rate from 0. Train, Held out: the victim's accuracy on images it was and was not trained on. "
    "ε: what a private training promises at its δ; – for none."
)


OF_ATTRIBUTES = {
    "Members": "attribute_accuracy",
    "imputed": "imputation_accuracy",
    "gain": "attribute_advantage",
    "Others": "held_out_attribute_accuracy",
    "their gain": "held_out_attribute_advantage",
    "Memorised": "attribute_memorised",
    "Untrained": "untrained_accuracy",
    "Train": "train_accuracy",
    "Clean": "clean_accuracy",
}


def sheets(records: Iterable[Record]) -> list[Sheet]:
    records = list(records)
    ours = [record for record in records if record.status == "ok" and record.cell.threat == "membership"]
    audits = [record for record in records if record.status == "ok" and record.cell.threat in AUDITS]
    pages = [_sheet(group) for group in grouped(ours, lambda cell: (cell.dataset, cell.model))]
    inverted = [record for record in records if record.status == "ok" and record.cell.threat == "gradient_inversion"]
    pages += [_inverted(group) for group in grouped(inverted, lambda cell: (cell.dataset, cell.examples, cell.seed))]
    models = [record for record in records if record.status == "ok" and record.cell.threat == "model_inversion"]
    pages += [_of_models(group) for group in grouped(models, lambda cell: (cell.dataset, cell.model))]
    attributes = [record for record in records if record.status == "ok" and record.cell.threat == "attribute"]
    pages += [_of_attributes(group) for group in grouped(attributes, lambda cell: (cell.dataset, cell.model))]
    return pages + [_audit(group) for group in grouped(audits, lambda cell: (cell.dataset, cell.model))]


def _sheet(group: list[Record]) -> Sheet:
    rows = [
        [called(found[0].cell), *(over_seeds([r.metrics.get(it) for r in found]) for it in COLUMNS.values())]
        + [_epsilon(found[0]), str(len(found))]
        for found in sorted(grouped(group, row_of), key=_place)
    ]
    cell = group[0].cell
    title = f"{cell.show('dataset')} · {cell.show('model')} · membership inference"
    return Sheet(title, NOTE + SPREAD, ["Attack · victim", *COLUMNS, "ε", "Seeds"], rows)


def _of_attributes(group: list[Record]) -> Sheet:
    """One row an attack and a training, over seeds."""
    heads = {head: it for head, it in OF_ATTRIBUTES.items() if any(it in record.metrics for record in group)}
    rows = [
        [called(found[0].cell), *(over_seeds([r.metrics.get(it) for r in found]) for it in heads.values())]
        + [_epsilon(found[0]), str(len(found))]
        for found in sorted(grouped(group, row_of), key=_place)
    ]
    note = (
        "In %. Members, Others: records that the victim was and was not trained on whose attribute is said rightly. "
        "Imputed: of members by whoever has the complete records and no model; gain: above it. Memorised: gain of "
        "members less that of others. Untrained: from a network before training. Train, Clean: the victim's accuracy."
    )
    cell = group[0].cell
    title = f"{cell.show('dataset')} · {cell.show('model')} · attribute inference"
    return Sheet(title, note + SPREAD, ["Attack · victim", *heads, "ε", "Seeds"], rows)


def _audit(group: list[Record]) -> Sheet:
    """One row a training and an audit of it, seed by seed: bounds are of one training each."""
    rows = []
    for record in sorted(group, key=lambda record: (name(record.cell), record.cell.seed)):
        shown = (record.metrics.get(it) for it in ("guesses_right", "clean_accuracy"))
        guessed, accuracy = (over_seeds([value]) for value in shown)
        lower, fdp, gaussian, promised = (_epsilon(record, it) for it in BOUNDS)
        label = f"{called(record.cell)} · seed {record.cell.seed}"
        rows.append([label, lower, promised, fdp, gaussian, guessed, accuracy])
    cell = group[0].cell
    note = (
        "ε audited: with 95% confidence the training is not more private than this. ε promised: what it says. A bound "
        "above the promise refutes it. By f-DP: from the same guesses, of any trade-off and of a Gaussian one. Guesses "
        "right and accuracy in %."
    )
    title = f"{cell.show('dataset')} · {cell.show('model')} · audit of privacy"
    heads = ["Audit · victim", "ε audited", "ε promised", "by f-DP", "if Gaussian", "Guesses right", "Clean"]
    return Sheet(title, note, heads, rows)


def _inverted(group: list[Record]) -> Sheet:
    """One row an attack, a budget and a model."""
    rows = []
    for record in sorted(group, key=lambda record: (name(record.cell), record.cell.budget, record.cell.attack)):
        numbers = [record.metrics[f"reconstruction_{it}"] for it in ("psnr", "ssim")]
        shown = [
            f"{it.value:.{digits}f}" + ("" if it.low is None else f" [{it.low:.{digits}f}, {it.high:.{digits}f}]")
            for it, digits in zip(numbers, (1, 2), strict=True)
        ]
        rows.append([called(record.cell), *shown, over_seeds([record.metrics["labels_found"]]), str(numbers[0].n)])
    note = "Means over images with 95% bootstrap intervals. PSNR in dB, at most 100; SSIM 1: equal. Labels found in %."
    title = f"{group[0].cell.show('dataset')} · images from shared gradients"
    return Sheet(title, note, ["Attack · model", "PSNR", "SSIM", "Labels", "Images"], rows)


def _of_models(group: list[Record]) -> Sheet:
    """One row an attack and a training, over seeds."""
    heads = {"Judge": "inversion_accuracy", "Victim": "inversion_confidence", "Clean": "clean_accuracy"}
    rows = []
    for found in sorted(grouped(group, row_of), key=_place):
        near = [_average(found, it) for it in ("class_mean_ssim", "feature_distance", "nearest_distance")]
        shown = [over_seeds([record.metrics.get(it) for record in found]) for it in heads.values()]
        rows.append([called(found[0].cell), *shown, *near, str(len(found))])
    note = (
        "In %. Judge: reconstructions that another model takes for their class; Victim: that the victim itself does. "
        "SSIM: with the mean training image of the class. Centre, nearest: the distance in the judge's features to the "
        "mean of the class's training images and to the nearest, 1 for test images." + SPREAD
    )
    cell = group[0].cell
    title = f"{cell.show('dataset')} · {cell.show('model')} · model inversion"
    return Sheet(title, note, ["Attack · victim", *heads, "SSIM", "Centre", "Nearest", "Seeds"], rows)


def _average(found: list[Record], name: str) -> str:
    values = [record.metrics[name].value for record in found if name in record.metrics]
    return f"{sum(values) / len(values):.2f}" if values else "–"


def _epsilon(record: Record, name: str = "epsilon") -> str:
    found = record.metrics.get(name)
    return "–" if found is None or found.value is None else f"{found.value:.2f}"


def _place(found: list[Record]) -> tuple:
    """Rows by victim, then by the number of shadow models, then by attack."""
    cell = found[0].cell
    return name(cell), [value for _, value in parse(cell.budget).kwargs], cell.attack
