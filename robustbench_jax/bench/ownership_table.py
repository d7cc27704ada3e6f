"""Tables of ownership: what each removal leaves of each mark; pure functions of records.

One table for each dataset, architecture and recipe: first what marks cost and how often an innocent model is taken for
the owner's, then one row a mark and an attack, over the seeds that were run (poisoning_table.over_seeds).
"""

from collections.abc import Iterable

from robustbench_jax.bench.groups import grouped
from robustbench_jax.bench.poisoning_table import SPREAD, over_seeds, row_of
from robustbench_jax.bench.records import Record
from robustbench_jax.bench.sheets import Sheet

CONTROL = "independent"
NOTE = (
    "In %, p-values aside; evidence of `radioactive` and `dataset_inference` in hundredths. Before: evidence that the "
    "marked model gives for its owner; after: that what the thief made of it gives. Others: mean and maximum of "
    "unmarked models trained by other people. p: the largest over seeds of the rank among these. Verified, removed "
    "(no longer verified, for less than 5 points of accuracy), forged (the thief's own claim on the stolen model is "
    "verified): share of the seeds."
)


def sheets(records: Iterable[Record]) -> list[Sheet]:
    ours = [record for record in records if record.status == "ok" and record.cell.threat == "ownership"]
    return [_sheet(group) for group in grouped(ours, lambda cell: (cell.dataset, cell.model, cell.recipe))]


def _sheet(group: list[Record]) -> Sheet:
    forged = any("forged_verified" in record.metrics for record in group)
    head = ["Mark · attack", "Before", "After", "Others", "p", "Verified", "Removed", *["Forged"] * forged]
    head += ["Unmarked", "Marked", "Clean", "Seeds"]
    rows = [_row(found, forged) for found in sorted(grouped(group, row_of), key=_place)]
    cell = group[0].cell
    title = f"{cell.show('dataset')} · {cell.show('model')} · ownership"
    return Sheet(title, NOTE + SPREAD, head, rows)


def _row(found: list[Record], forged: bool) -> list[str]:
    cell = found[0].cell
    shown = {it: over_seeds([r.metrics.get(it) for r in found]) for it in ("watermark_before", "watermark_success")}
    others = f"{100 * _mean(found, 'null_mean'):.1f}, {100 * _most(found, 'null_max'):.1f}"
    verdicts = [_share(found, name) for name in ("verified", "removed", *["forged_verified"] * forged)]
    names = [f"{it}_accuracy" for it in ("unmarked", "marked", "clean")]
    accuracies = [over_seeds([record.metrics.get(it) for record in found]) for it in names]
    p = f"{_most(found, 'p_value'):.3f}"
    called = f"{cell.show('defence')} · {cell.method} · {cell.show('budget')}"
    return [called, *shown.values(), others, p, *verdicts, *accuracies, str(len(found))]


def _place(found: list[Record]) -> tuple:
    """Rows by mark, the controls first."""
    cell = found[0].cell
    return cell.defence, not cell.attack.startswith("no_removal"), not cell.attack.startswith(CONTROL), cell.attack


def _values(found: list[Record], name: str) -> list[float]:
    known = [record.metrics[name].value for record in found if name in record.metrics]
    return [value for value in known if value is not None]


def _mean(found: list[Record], name: str) -> float:
    values = _values(found, name)
    return sum(values) / len(values)


def _most(found: list[Record], name: str) -> float:
    return max(_values(found, name))


def _share(found: list[Record], name: str) -> str:
    """ "2 of 3"; a dash where it is not known."""
    values = _values(found, name)
    return f"{round(sum(values))} of {len(values)}" if values else "–"
