"""Leaderboards: pure functions of records.

One table for each (dataset, split, examples, seed, budget); one row a model. The worst case is the AND over attacks of
the stored per-example results, with its own interval, and rows are ranked by it. Two neighbours whose difference
McNemar's exact test does not find at the 5% level share a rank. A row that lacks one of the table's attacks has only
an upper bound of its worst case: it stands below the ranked rows and has no rank.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from robustbench_jax.bench.cells import Cell
from robustbench_jax.bench.records import MetricValue, Record
from robustbench_jax.metrics import proportion
from robustbench_jax.ops.statistics import McNemar, mcnemar
from robustbench_jax.registry import build, parse
from robustbench_jax.types import UserError

LEVEL = 0.05
CONTROL = "uniform_noise"  # what an attack that uses gradients must not be weaker than


@dataclass
class Row:
    """One model. attacks: robust accuracy by attack; None where the cell failed or was not run.

    worst and robust are None where no attack finished, or where the row's records are not of the same images and
    weights. complete: every attack of the table finished, so that worst is the worst case and not a bound of it.
    """

    model: str
    clean: MetricValue | None
    attacks: dict[str, MetricValue | None]
    failed: set[str]
    worst: MetricValue | None
    robust: np.ndarray | None
    records: list[Record]
    complete: bool
    rank: str = "–"
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


def tables(records: Iterable[Record]) -> list[Table]:
    """All tables, by dataset, then ball, then radius; of evasion alone (corruptions: bench/corruption_table.py)."""
    made = [_table(group) for group in _grouped(of_evasion(records), lambda cell: (*images(cell), cell.budget))]
    return sorted(made, key=lambda table: (table.dataset, *radius(table.rows[0].records[0].cell.budget), table.title))


def alarms(records: Iterable[Record]) -> list[str]:
    """What cannot be true of honest results, a line each.

    More images robust than right; one row of several images or weights; robust accuracy that rises with the radius, or
    lies above that of random noise, by more than chance (McNemar at the 5% level over all such comparisons together).
    """
    done = [record for record in of_evasion(records) if record.status == "ok"]
    return [*_impossible(done), *_mixed(done), *_by_more_than_chance([*_along_the_radius(done), *_against_noise(done)])]


def name(cell: Cell) -> str:
    """The model and how it was trained; the recipe only where it is not the default one."""
    recipe = cell.show("recipe")
    return cell.victim + (f" + {recipe}" if recipe not in ("", "sgd") else "")


def of_evasion(records: Iterable[Record]) -> list[Record]:
    """Those that tables of robust accuracy are made of."""
    return [record for record in records if record.cell.threat == "evasion"]


def _impossible(done: list[Record]) -> list[str]:
    return [
        f"{record.cell.label()}: more examples robust than classified correctly"
        for record in done
        if np.any(_array(record, "robust") & ~_array(record, "clean_correct"))
    ]


def _mixed(done: list[Record]) -> list[str]:
    groups = _grouped(done, lambda cell: (*images(cell), *victim(cell), cell.budget))
    return [
        f"{name(group[0].cell)} · {group[0].cell.show('budget')}: its records are of different images or weights, so "
        "there is no worst case; run the sweep again"
        for group in groups
        if not _comparable(group)
    ]


def _along_the_radius(done: list[Record]) -> list[tuple[McNemar, str]]:
    """Each radius (a) against the next smaller one (b): a should not be true more often."""
    measured = [record for record in done if radius(record.cell.budget)[1] is not None]
    found = []
    for group in _grouped(measured, lambda c: (*images(c), *victim(c), c.attack, radius(c.budget)[0])):
        group.sort(key=lambda record: radius(record.cell.budget)[1])
        for small, large in zip(group, group[1:], strict=False):
            if _comparable([small, large]):
                test = mcnemar(_array(large, "robust"), _array(small, "robust"))
                below = small.cell.show("budget")
                found.append((test, f"{large.cell.label()}: more robust than at {below}, as if gradients were masked"))
    return found


def _against_noise(done: list[Record]) -> list[tuple[McNemar, str]]:
    """Each attack that uses gradients (a) against random noise (b) in the same budget."""
    found = []
    for group in _grouped(done, lambda cell: (*images(cell), *victim(cell), cell.budget)):
        noise = [record for record in group if parse(record.cell.attack).name == CONTROL]
        informed = [record for record in group if _uses_gradients(record.cell)]
        for attack, control in ((a, b) for a in informed for b in noise if _comparable([a, b])):
            test = mcnemar(_array(attack, "robust"), _array(control, "robust"))
            stronger = control.cell.show("attack")
            found.append((test, f"{attack.cell.label()}: weaker than {stronger}, as if gradients were masked"))
    return found


def _by_more_than_chance(tests: list[tuple[McNemar, str]]) -> list[str]:
    """The lines of the tests that find a true more often; Bonferroni's bound over all of them."""
    level = LEVEL / max(len(tests), 1)
    return [
        f"{line} (p = {test.p_value:.2g})" for test, line in tests if test.only_a > test.only_b and test.p_value < level
    ]


def _table(group: list[Record]) -> Table:
    cell = group[0].cell
    attacks = _from_weakest(group)
    rows = [_row(attacks, found) for found in _grouped(group, victim)]
    rows.sort(key=lambda row: (not row.complete, -(row.worst.value if row.worst else -1), row.model))
    _rank(rows)
    n = max((row.worst.n for row in rows if row.worst), default=0)
    more = [cell.split] * (cell.split != "test") + [f"seed {cell.seed}"] * bool(cell.seed)
    title = " · ".join([cell.show("dataset"), cell.show("budget"), *more])
    return Table(title, cell.show("dataset"), cell.show("budget"), n, attacks, rows)


def _from_weakest(group: list[Record]) -> list[str]:
    """Attacks by mean robust accuracy, the weakest first; those without a result last."""
    values: dict[str, list[float]] = defaultdict(list)
    for record in group:
        found = record.metrics.get("robust_accuracy")
        values[record.cell.show("attack")] += [found.value] if found and found.value is not None else []
    return sorted(values, key=lambda name: (-float(np.mean(values[name])) if values[name] else 1.0, name))


def _row(attacks: list[str], records: list[Record]) -> Row:
    done = {record.cell.show("attack"): record for record in records if record.status == "ok"}
    failed = {record.cell.show("attack") for record in records if record.status == "failed"}
    clean = next((record.metrics["clean_accuracy"] for record in done.values()), None)
    robust = None
    if done and _comparable(list(done.values())):
        robust = np.all([_array(record, "robust") for record in done.values()], axis=0)
    worst = None if robust is None else MetricValue(**vars(proportion("robust_accuracy", robust)))
    measured = {attack: done[attack].metrics["robust_accuracy"] if attack in done else None for attack in attacks}
    complete = robust is not None and len(done) == len(attacks)
    return Row(name(records[0].cell), clean, measured, failed, worst, robust, records, complete)


def _rank(rows: list[Row]) -> None:
    """Ranks complete rows from 1; one keeps the rank of the row above where the two are not told apart."""
    ranked = [row for row in rows if row.complete]
    for position, row in enumerate(ranked, start=1):
        row.rank = str(position)
        above = ranked[position - 2] if position > 1 else None
        if above and _same_images(above.records[0], row.records[0]):
            row.p_value = mcnemar(above.robust, row.robust).p_value
            row.rank = above.rank if row.p_value >= LEVEL else row.rank


def _grouped(records: Iterable[Record], key: Callable[[Cell], tuple]) -> list[list[Record]]:
    groups: dict[tuple, list[Record]] = defaultdict(list)
    for record in records:
        groups[key(record.cell)].append(record)
    return list(groups.values())


def images(cell: Cell) -> tuple:
    """What names the images of a cell."""
    return cell.threat, cell.dataset, cell.split, cell.examples, cell.seed


def victim(cell: Cell) -> tuple:
    """What names the model of a cell."""
    return cell.model, cell.defence, cell.recipe


def _comparable(records: list[Record]) -> bool:
    """Whether results are of the same images and the same weights, so that they can be paired."""
    first = records[0]
    weights = {record.provenance.get("weights") for record in records}
    return len(weights) == 1 and all(_same_images(first, record) for record in records)


def _same_images(a: Record, b: Record) -> bool:
    same_length = len(_array(a, "robust")) == len(_array(b, "robust"))
    return same_length and a.provenance.get("data") == b.provenance.get("data")


def _uses_gradients(cell: Cell) -> bool:
    try:
        return build("attack", cell.attack).access == "gradients"
    except UserError:  # a record of something that this version does not have
        return False


def radius(budget: str) -> tuple[str, float | None]:
    """The kind of ball and its radius; ("", None) for budgets that have none."""
    try:
        ball = build("budget", budget)
    except UserError:
        return "", None
    return ball.registered[1], getattr(ball, "eps", None)


def _array(record: Record, name: str) -> np.ndarray:
    return np.array(record.per_example[name], bool)
