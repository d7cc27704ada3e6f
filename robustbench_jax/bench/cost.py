"""Cost: what a defence takes to train, as a multiple of standard training, and to ask.

A pure function of records: seconds a training step from their provenance, seconds an image from their timing. Medians
over a model's records; those of other devices are never compared.
"""

from collections.abc import Callable, Iterable

import numpy as np

from robustbench_jax.bench.cells import Cell
from robustbench_jax.bench.groups import grouped, name, victim
from robustbench_jax.bench.records import Record
from robustbench_jax.bench.sheets import Sheet
from robustbench_jax.registry import parse

NOTE = (
    "Seconds a training step, and as a multiple of the standard training of the same architecture and recipe; "
    "milliseconds to classify one image in a bucket (all draws of a randomised model), and as a multiple of the model "
    "without its model defence. Medians over records. –: not measured, or nothing to compare with."
)
HEAD = ["Model", "s/step", "× standard", "ms/image", "× undefended"]


def sheets(records: Iterable[Record]) -> list[Sheet]:
    """One for each data set and device with a model that was trained or defended for the records."""
    timed = [record for record in records if record.status == "ok" and (_inference(record) or _training(record))]
    places: dict[tuple, list[Record]] = {}
    for record in timed:
        places.setdefault((record.cell.show("dataset"), _device(record)), []).append(record)
    telling = {place: of for place, of in places.items() if any(_training(r) or r.cell.model_defence for r in of)}
    return [Sheet(f"{dataset} · {device} · cost", NOTE, HEAD, _rows(of)) for (dataset, device), of in telling.items()]


def _rows(records: list[Record]) -> list[list[str]]:
    groups = grouped(records, victim)
    return [_row(group, records) for group in groups]


def _row(group: list[Record], records: list[Record]) -> list[str]:
    cell = group[0].cell
    trained, asked = _median(group, _training), _median(group, _inference)
    standard = [r for r in records if _is_standard(r.cell) and _same(r.cell, cell, "model", "recipe")]
    plain = [r for r in records if not r.cell.model_defence and _same(r.cell, cell, "model", "defence", "recipe")]
    return [
        name(cell),
        "–" if trained is None else f"{trained:.3g}",
        _times(trained, _median(standard, _training)),
        "–" if asked is None else f"{1000 * asked:.3g}",
        _times(asked, _median(plain, _inference)),
    ]


def _median(group: list[Record], read: Callable[[Record], float | None]) -> float | None:
    values = [value for value in map(read, group) if value]
    return float(np.median(values)) if values else None


def _times(value: float | None, base: float | None) -> str:
    return "–" if value is None or base is None else f"{value / base:.2f}"


def _training(record: Record) -> float | None:
    return (record.provenance.get("training") or {}).get("step_s")


def _inference(record: Record) -> float | None:
    return record.timing.inference_s or None


def _is_standard(cell: Cell) -> bool:
    return bool(cell.defence) and parse(cell.defence).name == "standard"


def _same(a: Cell, b: Cell, *fields: str) -> bool:
    return all(getattr(a, field) == getattr(b, field) for field in fields)


def _device(record: Record) -> str:
    device = record.provenance.get("device") or {}
    return f"{device.get('count', 1)} × {device.get('kind', 'unknown device')}"
