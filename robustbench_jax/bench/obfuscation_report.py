"""The obfuscation report as people read it: which checks fail for which model, what each measured, and the surfaces.

Pure functions of records of checklist(...); what the checks are: threats/obfuscation.py.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from robustbench_jax.bench.cells import Cell
from robustbench_jax.bench.groups import grouped, images, name
from robustbench_jax.bench.records import Record
from robustbench_jax.bench.sheets import Sheet

NOTE = (
    "Signs of masked gradients, or of an attack that is too weak, on the images that the model gets right: each check "
    "that fails calls the robust accuracy in question. p: McNemar's exact test."
)
SURFACE = "surface"


@dataclass(frozen=True)
class Surface:
    """Margins [G, G] around one image, along a random direction (rows) and the gradient (columns), from -1 to 1 of the
    ball's whole step; positive is misclassified.
    """

    model: str
    place: str
    values: np.ndarray


def of_obfuscation(records: Iterable[Record]) -> list[Record]:
    return [record for record in records if record.cell.threat == "obfuscation"]


def sheets(records: Iterable[Record]) -> list[Sheet]:
    """For each data set, budget and attack: the models by check; then what each model's checks measured."""
    pages = []
    for group in grouped(of_obfuscation(records), _place):
        done = [record for record in group if record.status == "ok"]
        pages += [_overview(done), *map(sheet, done)] if done else []
    return pages


def sheet(record: Record) -> Sheet:
    """What the checks of one record measured."""
    rows = [[line["check"], *_line(line)] for line in _checks(record)]
    return Sheet(record.cell.label(), "", ["Check", "Measured", "n", "Fails where", "Verdict"], rows)


def surfaces(records: Iterable[Record]) -> list[Surface]:
    """One for each record that has one."""
    return [
        Surface(name(record.cell), _title(record.cell), np.array(line["values"]))
        for record in of_obfuscation(records)
        for line in record.stages
        if line["check"] == SURFACE
    ]


def _overview(group: list[Record]) -> Sheet:
    names = list(dict.fromkeys(line["check"] for record in group for line in _checks(record)))
    rows = [[name(record.cell), _failed(record), *(_verdict(record, it) for it in names)] for record in group]
    return Sheet(f"{_title(group[0].cell)} · obfuscation", NOTE, ["Model", "Failed", *names], rows)


def _failed(record: Record) -> str:
    metric = record.metrics["failed_checks"]
    return f"{metric.value:.0f} of {metric.n}"


def _verdict(record: Record, check: str) -> str:
    verdict = next((line["verdict"] for line in _checks(record) if line["check"] == check), "")
    return {"not applicable": "–"}.get(verdict, verdict)


def _checks(record: Record) -> list[dict[str, Any]]:
    return [line for line in record.stages if line["check"] != SURFACE]


def _line(line: dict[str, Any]) -> list[str]:
    measured = ", ".join(f"{what} {_number(value)}" for what, value in line["measured"].items())
    return [measured or "–", str(line["n"]), line["fails where"], line["verdict"]]


def _number(value: Any) -> str:
    return " ".join(map(_number, value)) if isinstance(value, list) else f"{value:.3g}" if value < 1e4 else str(value)


def _place(cell: Cell) -> tuple:
    return *images(cell), cell.budget, cell.attack


def _title(cell: Cell) -> str:
    seed = [f"seed {cell.seed}"] * bool(cell.seed)
    return " · ".join([cell.show("dataset"), cell.show("budget"), cell.show("attack"), *seed])
