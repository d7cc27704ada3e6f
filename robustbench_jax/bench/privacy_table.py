"""Tables of membership inference: pure functions of records.

One table for each dataset and architecture; one row an attack and a training, over the seeds that were run (see
poisoning_table.over_seeds).
"""

from collections.abc import Iterable

from robustbench_jax.bench.cells import Cell
from robustbench_jax.bench.groups import grouped, name
from robustbench_jax.bench.poisoning_table import SPREAD, over_seeds
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
NOTE = (
    "In %. TPR @: members found where at most so many of the others are taken for members; – where these are too few "
    "to tell such a rate from 0. Train, Held out: the victim's accuracy on images it was and was not trained on. "
    "ε: what a private training promises at its δ; – for none."
)


def sheets(records: Iterable[Record]) -> list[Sheet]:
    records = list(records)
    ours = [record for record in records if record.status == "ok" and record.cell.threat == "membership"]
    audits = [record for record in records if record.status == "ok" and record.cell.threat == "audit"]
    pages = [_sheet(group) for group in grouped(ours, lambda cell: (cell.dataset, cell.model))]
    return pages + [_audit(group) for group in grouped(audits, lambda cell: (cell.dataset, cell.model))]


def _sheet(group: list[Record]) -> Sheet:
    rows = [
        [_called(found[0].cell), *(over_seeds([r.metrics.get(it) for r in found]) for it in COLUMNS.values())]
        + [_epsilon(found[0]), str(len(found))]
        for found in sorted(grouped(group, _row_of), key=_place)
    ]
    cell = group[0].cell
    title = f"{cell.show('dataset')} · {cell.show('model')} · membership inference"
    return Sheet(title, NOTE + SPREAD, ["Attack · victim", *COLUMNS, "ε", "Seeds"], rows)


def _audit(group: list[Record]) -> Sheet:
    """One row a training and an audit of it, seed by seed: bounds are of one training each."""
    rows = []
    for record in sorted(group, key=lambda record: (name(record.cell), record.cell.seed)):
        shown = (record.metrics.get(it) for it in ("guesses_right", "clean_accuracy"))
        guessed, accuracy = (over_seeds([value]) for value in shown)
        lower = f"{record.metrics['epsilon_lower'].value:.2f}"
        rows.append([f"{_called(record.cell)} · seed {record.cell.seed}", lower, _epsilon(record), guessed, accuracy])
    cell = group[0].cell
    note = (
        "ε audited: with 95% confidence the training is not more private than this. ε promised: what it says. A bound "
        "above the promise refutes it. Guesses right and accuracy in %."
    )
    title = f"{cell.show('dataset')} · {cell.show('model')} · audit of privacy"
    return Sheet(title, note, ["Audit · victim", "ε audited", "ε promised", "Guesses right", "Clean"], rows)


def _epsilon(record: Record) -> str:
    found = record.metrics.get("epsilon")
    return "–" if found is None or found.value is None else f"{found.value:.2f}"


def _row_of(cell: Cell) -> tuple:
    return tuple(value for field, value in cell.model_dump().items() if field != "seed")


def _place(found: list[Record]) -> tuple:
    """Rows by victim, then by the number of shadow models, then by attack."""
    cell = found[0].cell
    return name(cell), [value for _, value in parse(cell.budget).kwargs], cell.attack


def _called(cell: Cell) -> str:
    return f"{cell.method} · {cell.show('budget')} · {name(cell)}"
