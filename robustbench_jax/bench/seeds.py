"""Over seeds: how much robust accuracy varies where one recipe was run with several of them.

A pure function of records. Mean and Student's 95% interval over seeds (standard deviation with ddof = 1, one degree of
freedom less than seeds), which says where another seed would fall on average; the interval over images of each seed is
in the tables. An accuracy near 0 or 100% can have an interval beyond it: the seeds' spread is taken as it is.
"""

from collections.abc import Iterable

import numpy as np

from robustbench_jax.bench.cells import Cell
from robustbench_jax.bench.groups import array, comparable, grouped, images, name, of_evasion, victim
from robustbench_jax.bench.records import Record
from robustbench_jax.bench.sheets import Sheet
from robustbench_jax.ops.statistics import t_interval

NOTE = (
    "Robust accuracy in %: mean over seeds with the 95% t-interval, and the standard deviation (ddof = 1). Weights: "
    "how many of the seeds trained a model of their own; of one model the attack's randomness alone varies."
)
WORST = "worst case"


def sheets(records: Iterable[Record]) -> list[Sheet]:
    """One for each data set and budget in which a model has records of two seeds or more."""
    done = [record for record in of_evasion(records) if record.status == "ok"]
    pages = [_sheet(group) for group in grouped(done, lambda cell: (*_images(cell), cell.budget))]
    return [page for page in pages if page.rows]


def spread(values: Iterable[float]) -> str:
    """ "84.0 [82.1, 85.9]", in per cent, of two values or more."""
    mean, (low, high) = t_interval(np.array(list(values)))
    return f"{100 * mean:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _images(cell: Cell) -> tuple:
    """As groups.images, whatever the seed."""
    return images(cell)[:-1]


def _sheet(group: list[Record]) -> Sheet:
    cell, rows = group[0].cell, []
    for found in grouped(group, victim):
        weights = len({record.provenance.get("weights") for record in found})
        for attack, values in _by_attack(found).items():
            if len(values) > 1:
                deviation = f"{100 * np.std(values, ddof=1):.1f}"
                rows.append([name(found[0].cell), attack, spread(values), deviation, str(len(values)), str(weights)])
    title = f"{cell.show('dataset')} · {cell.show('budget')} · over seeds"
    return Sheet(title, NOTE, ["Model", "Attack", "Mean", "SD", "Seeds", "Weights"], rows)


def _by_attack(found: list[Record]) -> dict[str, list[float]]:
    """The values of the seeds by attack, and of the worst case where there are several attacks; of those seeds alone
    that have every attack of the model.
    """
    values: dict[str, list[float]] = {}
    for record in found:
        values.setdefault(record.cell.show("attack"), []).append(record.metrics["robust_accuracy"].value)
    if len(values) > 1:
        seeds = grouped(found, lambda cell: (cell.seed,))
        whole = [each for each in seeds if len(each) == len(values) and comparable(each)]
        values[WORST] = [float(np.mean(np.all([array(r, "robust") for r in each], axis=0))) for each in whole]
    return values
