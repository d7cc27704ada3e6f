"""The transfer table: how often what is made on one model's surrogates fools another.

A pure function of records of transfer(...): rows are the inner attack with its sources, columns the targets, values the
attack success rate among the images that the target classifies correctly, with its exact 95% interval.

Reference: the matrices of Liu et al., ICLR 2017, arXiv:1611.02770.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from robustbench_jax.bench.records import MetricValue, Record
from robustbench_jax.bench.sheets import Sheet
from robustbench_jax.metrics import proportion
from robustbench_jax.registry import Call, parse, short

NOTE = (
    "Attack success rates in % of the images that the target classifies correctly, with exact 95% intervals; * the "
    "target is among the sources."
)


@dataclass
class Matrix:
    """One data set, budget and seed. values: by (sources, target). own: values whose target is among the sources."""

    title: str
    sources: list[str] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    values: dict[tuple[str, str], MetricValue] = field(default_factory=dict)
    own: set[tuple[str, str]] = field(default_factory=set)


def matrices(records: Iterable[Record]) -> list[Matrix]:
    """One for each (dataset, split, examples, budget, seed), in the records' order."""
    found: dict[tuple, Matrix] = {}
    for record in records:
        cell = record.cell
        if record.status == "ok" and cell.attack and parse(cell.attack).name == "transfer":
            key = (cell.dataset, cell.split, cell.examples, cell.budget, cell.seed)
            _enter(found.setdefault(key, Matrix(_title(cell))), record)
    return list(found.values())


def sheets(records: Iterable[Record]) -> list[Sheet]:
    """Each matrix as text; an asterisk where the target is one of the sources."""
    return [_sheet(matrix) for matrix in matrices(records)]


def _sheet(matrix: Matrix) -> Sheet:
    n = max((value.n for value in matrix.values.values()), default=0)
    rows = [[source, *(_shown(matrix, source, target) for target in matrix.targets)] for source in matrix.sources]
    note = f"{NOTE} n up to {n}."
    return Sheet(f"{matrix.title} · transfer", note, ["made on", *matrix.targets], rows)


def sources_of(attack: str) -> tuple[str, tuple[str, ...]]:
    """The inner attack of a transfer(...), and its sources, as tables show them."""
    call = parse(attack)
    arguments = dict(call.kwargs) | dict(zip(("attack", "sources"), call.args, strict=False))
    sources = tuple(_source(parse(source)) for source in arguments.get("sources", ()))
    if arguments.get("twin"):
        sources = ("its undefended twin", *sources)
    if arguments.get("train"):
        sources += (f"{arguments.get('count', 3)} {arguments['train']} trained on the pool",)
    return short("attack", arguments["attack"]), sources


def _source(call: Call) -> str:
    named = dict(call.kwargs).get("name") or (call.args[0] if call.args else None)
    return str(named) if call.name == "zoo" and named else short("pretrained", call)


def _enter(matrix: Matrix, record: Record) -> None:
    inner, sources = sources_of(record.cell.attack)
    source, target = f"{' + '.join(sources)} ({inner})", record.cell.victim
    for names, name in ((matrix.sources, source), (matrix.targets, target)):
        if name not in names:
            names.append(name)
    clean, robust = (np.array(record.per_example[name], bool) for name in ("clean_correct", "robust"))
    metric = proportion("attack_success_rate", ~robust[clean])
    matrix.values[source, target] = MetricValue(**vars(metric))
    if target in sources:
        matrix.own.add((source, target))


def _title(cell: Any) -> str:
    seed = [f"seed {cell.seed}"] * bool(cell.seed)
    return " · ".join([cell.show("dataset"), cell.show("budget"), *seed])


def _shown(matrix: Matrix, source: str, target: str) -> str:
    value = matrix.values.get((source, target))
    if value is None or value.value is None:
        return "–"
    star = "*" * ((source, target) in matrix.own)
    return f"{100 * value.value:.1f}{star} [{100 * value.low:.1f}, {100 * value.high:.1f}]"
