"""Leaderboards: pure functions of records.

One table for each (dataset, split, examples, seed, budget); one row a model, and one more for each model that a
certifier makes of it (smoothing, masking): its clean accuracy is another, and what was attacked is not it. The worst
case is the AND over attacks of the stored per-example results, with its own interval, and rows are ranked by it. Two
neighbours whose difference McNemar's exact test does not find at the 5% level share a rank. A row that lacks one of the
table's attacks has only an upper bound of its worst case: it stands below the ranked rows and has no rank. Certified is
the OR over certifiers of the model; what lies between certified and worst case is undecided. Without any attack,
certified accuracy ranks.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from robustbench_jax.bench.cells import Cell
from robustbench_jax.bench.collisions import collisions, own_prediction
from robustbench_jax.bench.groups import (
    array,
    comparable,
    grouped,
    images,
    name,
    of_certification,
    of_evasion,
    radius,
    same_images,
    victim,
)
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
    certifiers: certified accuracy by certifier; certified: of all of them; undecided: right, withstood every attack,
    not certified, and no certifier met a counterexample; None of a model that a certifier made.
    """

    model: str
    clean: MetricValue | None
    attacks: dict[str, MetricValue | None]
    failed: set[str]
    worst: MetricValue | None
    robust: np.ndarray | None
    records: list[Record]
    complete: bool
    certifiers: dict[str, MetricValue | None] = field(default_factory=dict)
    certified: MetricValue | None = None
    proved: np.ndarray | None = None
    undecided: MetricValue | None = None
    rank: str = "–"
    p_value: float | None = None


@dataclass
class Table:
    """One threat model: rows from the most to the least robust; attacks and certifiers from the weakest to the
    strongest."""

    title: str
    dataset: str
    budget: str
    n: int
    attacks: list[str]
    rows: list[Row]
    certifiers: list[str] = field(default_factory=list)


def tables(records: Iterable[Record]) -> list[Table]:
    """All tables, by dataset, then ball, then radius; of evasion and certification (corruptions have their own)."""
    records = list(records)
    ours = [*of_evasion(records), *of_certification(records)]
    made = [_table(group) for group in grouped(ours, lambda cell: (*images(cell), cell.budget))]
    return sorted(made, key=lambda table: (table.dataset, *radius(table.rows[0].records[0].cell.budget), table.title))


def alarms(records: Iterable[Record]) -> list[str]:
    """What cannot be true of honest results, a line each.

    More images robust or certified than right; one row of several images or weights; an image that is certified and
    broken; robust accuracy that rises with the radius, or lies above that of random noise, by more than chance
    (McNemar at the 5% level over all such comparisons together).
    """
    records = list(records)
    done, proofs = ([r for r in of(records) if r.status == "ok"] for of in (of_evasion, of_certification))
    chance = _by_more_than_chance([*_along_the_radius(done), *_against_noise(done)])
    return [
        *_impossible(done, "robust"),
        *_impossible(proofs, "certified"),
        *_mixed([*done, *proofs]),
        *collisions(records),
        *chance,
    ]


def _impossible(done: list[Record], what: str) -> list[str]:
    return [
        f"{record.cell.label()}: more examples {what} than classified correctly"
        for record in done
        if np.any(array(record, what) & ~array(record, "clean_correct"))
    ]


def _mixed(done: list[Record]) -> list[str]:
    rows = grouped(done, lambda cell: (*images(cell), *victim(cell), cell.budget))
    return [
        f"{name(group[0].cell)} · {group[0].cell.show('budget')}: its records are of different images or weights, so "
        "there is no worst case; run the sweep again"
        for group in rows
        if not comparable(group)
    ]


def _along_the_radius(done: list[Record]) -> list[tuple[McNemar, str]]:
    """Each radius (a) against the next smaller one (b): a should not be true more often."""
    measured = [record for record in done if radius(record.cell.budget)[1] is not None]
    found = []
    for group in grouped(measured, lambda c: (*images(c), *victim(c), c.attack, radius(c.budget)[0])):
        group.sort(key=lambda record: radius(record.cell.budget)[1])
        for small, large in zip(group, group[1:], strict=False):
            if comparable([small, large]):
                test = mcnemar(array(large, "robust"), array(small, "robust"))
                below = small.cell.show("budget")
                found.append((test, f"{large.cell.label()}: more robust than at {below}, as if gradients were masked"))
    return found


def _against_noise(done: list[Record]) -> list[tuple[McNemar, str]]:
    """Each attack that uses gradients (a) against random noise (b) in the same budget."""
    found = []
    for group in grouped(done, lambda cell: (*images(cell), *victim(cell), cell.budget)):
        noise = [record for record in group if parse(record.cell.attack).name == CONTROL]
        informed = [record for record in group if _uses_gradients(record.cell)]
        for attack, control in ((a, b) for a in informed for b in noise if comparable([a, b])):
            test = mcnemar(array(attack, "robust"), array(control, "robust"))
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
    attacks = _from_weakest(of_evasion(group), "robust_accuracy", -1)
    certifiers = _from_weakest(of_certification(group), "certified_accuracy", 1)
    rows = [_row(attacks, certifiers, found) for found in grouped(group, _row_of)]
    rows.sort(key=lambda row: (not row.complete, _falling(row.worst), _falling(row.certified), row.model))
    _rank(rows)
    n = max((m.n for row in rows for m in (row.worst, row.certified) if m), default=0)
    more = [cell.split] * (cell.split != "test") + [f"seed {cell.seed}"] * bool(cell.seed)
    title = " · ".join([cell.show("dataset"), cell.show("budget"), *more])
    return Table(title, cell.show("dataset"), cell.show("budget"), n, attacks, rows, certifiers)


def _falling(metric: MetricValue | None) -> float:
    return -(metric.value if metric else -1)


def _row_of(cell: Cell) -> tuple:
    return *victim(cell), cell.certifier if own_prediction(cell) else ""


def _from_weakest(group: list[Record], metric: str, sign: int) -> list[str]:
    """Attacks or certifiers by the mean of a metric, times `sign`, the weakest first; those without a result last."""
    values: dict[str, list[float]] = defaultdict(list)
    for record in group:
        found = record.metrics.get(metric)
        values[record.cell.method] += [found.value] if found and found.value is not None else []
    return sorted(values, key=lambda name: (sign * float(np.mean(values[name])) if values[name] else 1.0, name))


def _row(attacks: list[str], certifiers: list[str], records: list[Record]) -> Row:
    done = [record for record in records if record.status == "ok"]
    failed = {record.cell.method for record in records if record.status == "failed"}
    attacked, proofs = ({record.cell.method: record for record in of(done)} for of in (of_evasion, of_certification))
    clean = next((record.metrics["clean_accuracy"] for record in done), None)
    robust, proved = _paired(done, "robust", np.all), _paired(done, "certified", np.any) if proofs else None
    own = own_prediction(records[0].cell)
    row = Row(
        model=name(records[0].cell) + (f" + {records[0].cell.method}" if own else ""),
        clean=clean,
        attacks={it: attacked[it].metrics["robust_accuracy"] if it in attacked else None for it in attacks},
        failed=failed,
        worst=_share("robust_accuracy", robust),
        robust=robust,
        records=records,
        complete=robust is not None and len(attacked) == len(attacks) if attacks else proved is not None,
        certifiers={it: proofs[it].metrics["certified_accuracy"] if it in proofs else None for it in certifiers},
        certified=_share("certified_accuracy", proved),
        proved=proved,
    )
    if proved is not None and not own:
        row.undecided = _share("undecided", _undecided(done, robust, proved))
    return row


def _paired(done: list[Record], key: str, join: Any) -> np.ndarray | None:
    """bool [N]: `join` over those records that have the array; None where there is none, or no pairing."""
    found = [array(record, key) for record in done if key in record.per_example]
    return join(found, axis=0) if found and comparable(done) else None


def _undecided(done: list[Record], robust: np.ndarray | None, proved: np.ndarray) -> np.ndarray:
    met = _paired(done, "attacked", np.any)
    left = array(done[0], "clean_correct") if robust is None else robust
    return left & ~proved & ~(np.zeros_like(left) if met is None else met)


def _share(metric: str, hits: np.ndarray | None) -> MetricValue | None:
    return None if hits is None else MetricValue(**vars(proportion(metric, hits)))


def _rank(rows: list[Row]) -> None:
    """Ranks complete rows from 1; one keeps the rank of the row above where the two are not told apart."""
    ranked = [row for row in rows if row.complete]
    for position, row in enumerate(ranked, start=1):
        row.rank = str(position)
        above = ranked[position - 2] if position > 1 else None
        if above and same_images(*(next(r for r in it.records if r.status == "ok") for it in (above, row))):
            a, b = (it.proved if it.robust is None else it.robust for it in (above, row))
            row.p_value = mcnemar(a, b).p_value
            row.rank = above.rank if row.p_value >= LEVEL else row.rank


def _uses_gradients(cell: Cell) -> bool:
    try:
        return build("attack", cell.attack).access == "gradients"
    except UserError:  # a record of something that this version does not have
        return False
