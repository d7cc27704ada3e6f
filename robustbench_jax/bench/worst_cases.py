"""Worst cases of aggregation rules: what the best lie for each leaves of a federated model; a pure function of records.

Reference: the heat maps of ByzFL (EPFL, https://byzfl.epfl.ch): the lowest accuracy over attacks, each the
mean over seeds. A rule has a place in the map for each way to deal the images out and number of Byzantine clients.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from robustbench_jax.bench.cells import Cell
from robustbench_jax.bench.groups import grouped
from robustbench_jax.bench.records import Record
from robustbench_jax.registry import Call, build, parse, short


@dataclass(frozen=True)
class Worst:
    """The lowest mean accuracy over seeds of all attacks, and which attack leaves it."""

    value: float
    attack: str


@dataclass(frozen=True)
class Map:
    """One model on one dataset. columns: how the images are dealt out, "" for evenly, and how many clients lie."""

    title: str
    rules: tuple[str, ...]
    columns: tuple[tuple[str, int], ...]
    places: dict[tuple[str, tuple[str, int]], Worst]


def maps(records: Iterable[Record]) -> list[Map]:
    """Those with two rules and two attacks at least."""
    done = [record for record in records if record.status == "ok" and record.cell.threat == "byzantine"]
    ours = [record for record in done if parse(record.cell.defence).name == "federated"]
    made = [_map(group) for group in grouped(ours, lambda c: (c.dataset, c.split, c.examples, c.model, c.recipe))]
    return sorted((it for it in made if it), key=lambda it: it.title)


def _map(group: list[Record]) -> Map | None:
    rules = tuple(sorted({_rule(record.cell) for record in group}))
    attacks = {record.cell.attack for record in group}
    if len(rules) < 2 or len(attacks) < 2:
        return None
    places = {}
    for found in grouped(group, lambda cell: (cell.defence, cell.budget)):
        means = {
            own[0].cell.method: float(np.mean([record.metrics["clean_accuracy"].value for record in own]))
            for own in grouped(found, lambda cell: (cell.attack,))
        }
        if len(means) == len(attacks):  # the worst of some is no worst case
            lowest = min(means, key=lambda attack: (means[attack], attack))
            places[_rule(found[0].cell), _column(found[0].cell)] = Worst(means[lowest], lowest)
    title = f"{group[0].cell.show('dataset')} · {group[0].cell.show('model')}"
    return Map(title, rules, tuple(sorted({column for _, column in places})), places) if places else None


def _rule(cell: Cell) -> str:
    return short("aggregation", dict(parse(cell.defence).kwargs)["rule"])


def _column(cell: Cell) -> tuple[str, int]:
    """What is not the default in how the images are dealt out, without the rule, and f."""
    rest = tuple((key, value) for key, value in parse(cell.defence).kwargs if key != "rule")
    dealt = short("training", Call("federated", (), rest)).removeprefix("federated").strip("()")
    return dealt, build("budget", cell.budget).f
