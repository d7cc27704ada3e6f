"""Curves: robust accuracy against the radius and against the queries, pure functions of records.

Against the radius a curve has one point for each record, or, where the attack looks for the smallest perturbation,
all of its points from the one record with the largest radius. Against the queries it has all of its points from one
record: an attack that stops at its first success has spent what it needed.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from robustbench_jax.bench.groups import images, name, of_evasion, radius, victim
from robustbench_jax.bench.records import MetricValue, Record
from robustbench_jax.metrics import proportion
from robustbench_jax.registry import build
from robustbench_jax.types import EvasionAttack, UserError

DENSE = 60  # points of a curve that one record gives


@dataclass
class Point:
    """Robust accuracy at a radius, or after so many queries."""

    at: float
    metric: MetricValue


@dataclass
class Curve:
    """Robust accuracy of one model under one attack. axis: the kind of ball, or "queries" with `budget` fixed."""

    model: str
    attack: str
    axis: str
    dataset: str
    points: list[Point] = field(default_factory=list)
    budget: str = ""


def along_eps(records: Iterable[Record]) -> list[Curve]:
    """Curves with at least two radii, each from clean accuracy on."""
    found: dict[tuple, list[Record]] = {}
    for record in of_evasion(records):
        ball, eps = radius(record.cell.budget)
        if record.status == "ok" and eps is not None:
            key = (*images(record.cell), *victim(record.cell), record.cell.attack, ball)
            found.setdefault(key, []).append(record)
    made = [_against_eps(sorted(group, key=_eps)) for group in found.values()]
    return [curve for curve in made if len(curve.points) > 2]


def along_queries(records: Iterable[Record]) -> list[Curve]:
    """Curves of attacks that see scores or labels, have a number of queries and stop at their first success."""
    made = []
    for record in of_evasion(records):
        attack = _attack(record)
        counted = attack and attack.queries and not attack.minimal and attack.access != "gradients"
        if record.status == "ok" and counted and "forwards" in record.per_example:
            made.append(_against_queries(record))
    return [curve for curve in made if len(curve.points) > 2]


def _against_eps(group: list[Record]) -> Curve:
    cell, attack = group[-1].cell, _attack(group[-1])
    points = [Point(0.0, group[0].metrics["clean_accuracy"])]
    if attack and attack.minimal and "size" in group[-1].per_example:
        points += _by_size(group[-1])
    else:
        points += [Point(_eps(record), record.metrics["robust_accuracy"]) for record in group]
    return Curve(name(cell), cell.show("attack"), radius(cell.budget)[0], cell.show("dataset"), points)


def _by_size(record: Record) -> list[Point]:
    clean = np.array(record.per_example["clean_correct"], bool)
    sizes = np.array([np.inf if size is None else size for size in record.per_example["size"]])
    last = sizes[np.isfinite(sizes)].max(initial=0.0)
    return [Point(float(eps), _share(clean & (sizes > eps))) for eps in np.linspace(0, last, DENSE + 1)[1:] if last]


def _against_queries(record: Record) -> Curve:
    clean, robust = (np.array(record.per_example[key], bool) for key in ("clean_correct", "robust"))
    spent = np.array(record.per_example["forwards"])
    last = max(int(spent.max(initial=0)), 1)
    grid = np.unique(np.geomspace(1, last, DENSE).round().astype(int))
    points = [Point(float(count), _share(clean & (robust | (spent > count)))) for count in grid]
    cell = record.cell
    return Curve(name(cell), cell.show("attack"), "queries", cell.show("dataset"), points, budget=cell.show("budget"))


def _share(robust: np.ndarray) -> MetricValue:
    return MetricValue(**vars(proportion("robust_accuracy", robust)))


def _eps(record: Record) -> float:
    return radius(record.cell.budget)[1]


def _attack(record: Record) -> EvasionAttack | None:
    try:
        return build("attack", record.cell.attack)
    except UserError:  # a record of something that this version does not have
        return None
