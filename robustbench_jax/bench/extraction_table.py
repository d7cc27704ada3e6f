"""Tables of model extraction: pure functions of records.

One table for each dataset; one row an attack, a number of queries and a victim with what protects it, over the seeds
that were run (see poisoning_table.over_seeds).
"""

from collections.abc import Iterable

import numpy as np

from robustbench_jax.bench.groups import grouped, name
from robustbench_jax.bench.poisoning_table import SPREAD, over_seeds, row_of
from robustbench_jax.bench.records import Record
from robustbench_jax.bench.sheets import Sheet
from robustbench_jax.registry import build

COLUMNS = {
    "Victim": "clean_accuracy",
    "Clone": "clone_accuracy",
    "Agreement": "agreement",
    "Transfer": "transfer_success_rate",
}
NOTE = (
    "In %. Victim, Clone: accuracy on test images, the protected victim's. Agreement: images to which both give one "
    "class. Transfer: of the images that the victim gets right, those that fool it once they are attacked on the clone."
)


def sheets(records: Iterable[Record]) -> list[Sheet]:
    records = list(records)
    ours = [record for record in records if record.status == "ok" and record.cell.threat == "extraction"]
    pages = [_sheet(group) for group in grouped(ours, lambda cell: (cell.dataset, cell.split, cell.examples))]
    told = [record for record in records if record.status == "ok" and record.cell.threat == "reverse_engineering"]
    return pages + [page for record in told for page in _confusions(record)]


def _sheet(group: list[Record]) -> Sheet:
    rows = []
    for found in sorted(grouped(group, row_of), key=_place):
        shown = [over_seeds([record.metrics.get(it) for record in found]) for it in COLUMNS.values()]
        cell, width = found[0].cell, found[0].metrics.get("width_found")
        attack = cell.method + (f" (width {width.value:.0f})" if width else "")
        rows.append([f"{attack} · {cell.show('budget')} · {name(cell)}", *shown, str(len(found))])
    title = f"{group[0].cell.show('dataset')} · model extraction"
    return Sheet(title, NOTE + SPREAD, ["Attack · victim", *COLUMNS, "Seeds"], rows)


def _confusions(record: Record) -> list[Sheet]:
    """One table an attribute of the candidates: how many of each true value were taken for each value."""
    pages = []
    for attribute, names in build("attack", record.cell.attack).names.items():
        if len(names) < 2:
            continue
        true, told = (np.array(record.per_example[f"{attribute}_{it}"]) for it in ("true", "told"))
        rows = [
            [f"{name} ({np.sum(true == i)})", *(str(np.sum((true == i) & (told == j))) for j in range(len(names)))]
            for i, name in enumerate(names)
        ]
        title = f"{record.cell.show('dataset')} · {attribute} told from {record.cell.show('budget')}"
        pages.append(Sheet(title, "Unseen candidates by row, what they were taken for by column.", ["", *names], rows))
    return pages


def _place(found: list[Record]) -> tuple:
    """Rows by victim, then by attack, then by the number of queries."""
    cell = found[0].cell
    return name(cell), cell.attack, build("budget", cell.budget).n
