"""Leaderboards: pure functions of records.

One table for each (dataset, split, examples, seed, budget); one row a model. The worst case is the AND over attacks of
the stored per-example results, with its own interval, and rows are ranked by it. Two neighbours whose difference
McNemar's exact test does not find at the 5% level share a rank.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from robustbench_jax.bench.records import MetricValue, Record
from robustbench_jax.metrics import proportion
from robustbench_jax.ops.statistics import mcnemar
from robustbench_jax.registry import build
from robustbench_jax.types import UserError

LEVEL = 0.05


@dataclass
class Row:
    """One model. attacks: robust accuracy by attack; None where the cell failed or was not run."""

    model: str
    clean: MetricValue | None
    attacks: dict[str, MetricValue | None]
    failed: set[str]
    worst: MetricValue | None
    robust: np.ndarray | None
    records: list[Record]
    rank: str = ""
    p_value: float | None = None


@dataclass
class Table:
    """One threat model: rows from the most to the least robust; attacks from the weakest to the strongest."""

    title: str
    dataset: str
    budget: str
    n: int
    attacks: list[str]
    rows: list[Row]


@dataclass
class Point:
    """One point of a robustness curve: robust accuracy at a radius."""

    eps: float
    metric: MetricValue


@dataclass
class Curve:
    """Robust accuracy of one model against the radius, under one attack in one kind of ball; eps = 0 is clean."""

    model: str
    attack: str
    ball: str
    dataset: str
    points: list[Point] = field(default_factory=list)


def tables(records: Iterable[Record]) -> list[Table]:
    """All tables, by dataset, then ball, then radius."""
    groups: dict[tuple, list[Record]] = defaultdict(list)
    for record in records:
        cell = record.cell
        groups[cell.dataset, cell.split, cell.examples, cell.seed, cell.budget].append(record)
    made = [_table(group) for group in groups.values()]
    return sorted(made, key=lambda table: (table.dataset, *_radius(table.rows[0].records[0].cell.budget), table.title))


def curves(records: Iterable[Record]) -> list[Curve]:
    """Curves with at least two radii, each from clean accuracy on."""
    found: dict[tuple, Curve] = {}
    for record in records:
        cell = record.cell
        ball, eps = _radius(cell.budget)
        if record.status != "ok" or eps is None:
            continue
        key = (cell.dataset, cell.split, cell.examples, cell.seed, cell.victim, cell.attack, ball)
        if key not in found:
            clean = Point(0.0, record.metrics["clean_accuracy"])
            found[key] = Curve(cell.victim, cell.show("attack"), ball, cell.show("dataset"), [clean])
        found[key].points.append(Point(eps, record.metrics["robust_accuracy"]))
    for curve in found.values():
        curve.points.sort(key=lambda point: point.eps)
    return [curve for curve in found.values() if len(curve.points) > 2]


def alarms(records: Iterable[Record]) -> list[str]:
    """What cannot be true of honest results: robust above clean, or rising with the radius by more than chance."""
    records = [record for record in records if record.status == "ok"]
    found = [
        f"{r.cell.label()}: more examples robust than classified correctly"
        for r in records
        if np.any(_array(r, "robust") & ~_array(r, "clean_correct"))
    ]
    groups: dict[tuple, list[tuple[float, Record]]] = defaultdict(list)
    for record in records:
        cell, (ball, eps) = record.cell, _radius(record.cell.budget)
        if eps is not None:
            key = (cell.dataset, cell.split, cell.examples, cell.seed, cell.victim, cell.attack, ball)
            groups[key].append((eps, record))
    for group in groups.values():
        ordered = [record for _, record in sorted(group, key=lambda pair: pair[0])]
        for small, large in zip(ordered, ordered[1:], strict=False):
            test = mcnemar(_array(large, "robust"), _array(small, "robust"))
            if test.only_a > test.only_b and test.p_value < LEVEL:
                found.append(
                    f"{large.cell.label()}: more robust than at {small.cell.show('budget')} "
                    f"(p = {test.p_value:.2g}): the attack loses its grip as eps grows, as masked gradients do"
                )
    return found


def _table(group: list[Record]) -> Table:
    cell = group[0].cell
    attacks = _from_weakest(group)
    by_model: dict[str, list[Record]] = defaultdict(list)
    for record in group:
        by_model[record.cell.victim].append(record)
    rows = [_row(model, attacks, found) for model, found in by_model.items()]
    rows.sort(key=lambda row: (-(row.worst.value if row.worst else -1), row.model))
    _rank(rows)
    n = max((row.worst.n for row in rows if row.worst), default=0)
    title = f"{cell.show('dataset')} · {cell.show('budget')}"
    return Table(
        title + (f" · seed {cell.seed}" if cell.seed else ""),
        cell.show("dataset"),
        cell.show("budget"),
        n,
        attacks,
        rows,
    )


def _from_weakest(group: list[Record]) -> list[str]:
    """Attacks by mean robust accuracy, the weakest first; those without a result last."""
    values: dict[str, list[float]] = defaultdict(list)
    for record in group:
        found = record.metrics.get("robust_accuracy")
        values[record.cell.show("attack")] += [found.value] if found and found.value is not None else []
    return sorted(values, key=lambda name: (-float(np.mean(values[name])) if values[name] else 1.0, name))


def _row(model: str, attacks: list[str], records: list[Record]) -> Row:
    done = {record.cell.show("attack"): record for record in records if record.status == "ok"}
    failed = {record.cell.show("attack") for record in records if record.status == "failed"}
    clean = next((record.metrics["clean_accuracy"] for record in done.values()), None)
    robust = np.all([_array(record, "robust") for record in done.values()], axis=0) if done else None
    worst = None if robust is None else MetricValue(**vars(proportion("robust_accuracy", robust)))
    measured = {name: done[name].metrics["robust_accuracy"] if name in done else None for name in attacks}
    return Row(model, clean, measured, failed, worst, robust, records)


def _rank(rows: list[Row]) -> None:
    """Ranks from 1; a row keeps the rank of the one above it where the two are not told apart."""
    for position, row in enumerate(rows, start=1):
        if row.robust is None:
            row.rank = "–"
            continue
        above = rows[position - 2] if position > 1 else None
        if above is None or len(above.robust) != len(row.robust):
            row.rank = str(position)
            continue
        row.p_value = mcnemar(above.robust, row.robust).p_value
        row.rank = above.rank if row.p_value >= LEVEL else str(position)


def _radius(budget: str) -> tuple[str, float | None]:
    """The kind of ball and its radius; ("", None) for budgets that have none."""
    try:
        ball = build("budget", budget)
    except UserError:
        return "", None
    return ball.registered[1], getattr(ball, "eps", None)


def _array(record: Record, name: str) -> np.ndarray:
    return np.array(record.per_example[name], bool)
