"""Tables of monitoring: pure functions of records.

For each dataset and model: what the monitors cost honest accounts, one row a monitor; and when they see attacks, one
row an attack and its traffic, one column a monitor. Seeds are pooled: their counts are added up.
"""

from collections.abc import Iterable

import numpy as np

from robustbench_jax import metrics
from robustbench_jax.bench.groups import grouped, name
from robustbench_jax.bench.records import MetricValue, Record
from robustbench_jax.bench.sheets import Sheet
from robustbench_jax.ops.statistics import clopper_pearson
from robustbench_jax.registry import parse

HONEST = "honest"
COSTS = (
    "Honest accounts: {} queries a day. False alarms: an account-day, with the exact 95% interval of a Poisson rate. "
    "Days with one: share of account-days, in %, with its exact interval. ms: median time for a request."
)
FOUND = (
    "Share of the attack's streams in % during which there is an alarm, and the median number of the query that raises "
    "it, dummies included; – where it is after the end. In brackets: mean number of queries of use that are answered "
    "before it (all, where there is none)."
)
UNNOTICED = (
    "Share of streams in % that ask about an adversarial image within the budget and are answered before any alarm."
)

REFUSED = (
    "Attackers who learn from refusals, where no query that raises an alarm is answered: share of streams in % that "
    "get an answer to an adversarial image within the budget, and the mean number of queries of use that are answered."
)


def sheets(records: Iterable[Record]) -> list[Sheet]:
    ours = [record for record in records if record.status == "ok" and record.cell.threat == "monitoring"]
    pages = []
    for group in grouped(ours, lambda cell: (cell.dataset, cell.split, cell.examples, name(cell))):
        honest = [record for record in group if parse(record.cell.attack).name == HONEST]
        attacks = [record for record in group if parse(record.cell.attack).name != HONEST]
        pages += [_costs(own) for own in grouped(honest, lambda cell: (cell.attack, cell.budget))]
        pages += [_found(attacks)] if attacks else []
        goals = [record for record in attacks if "unnoticed_success" in record.metrics]
        pages += [_unnoticed(goals)] if goals else []
        learning = [record for record in attacks if "queries_answered" in record.metrics]
        pages += [_refused(learning)] if learning else []
    return pages


def _costs(group: list[Record]) -> Sheet:
    rows = [
        [found[0].cell.show("monitor"), *_of_honest(found)]
        for found in sorted(grouped(group, lambda cell: (cell.monitor,)), key=lambda found: found[0].cell.monitor)
    ]
    cell = group[0].cell
    title = f"{_title(cell)} · monitors on {cell.show('attack')} accounts · {cell.show('budget')}"
    head = ["Monitor", "False alarms", "Days with one", "ms", "Account-days"]
    return Sheet(title, COSTS.format(dict(parse(cell.budget).kwargs)["queries"]), head, rows)


def _of_honest(found: list[Record]) -> list[str]:
    hits, n = _pooled([record.metrics["false_alarms"] for record in found])
    rate = metrics.rate("false_alarms", hits, n)
    shown = f"{rate.value:.3f} [{rate.low:.3f}, {rate.high:.3f}]"
    return [shown, _share([record.metrics["alarmed_days"] for record in found]), _time(found), str(n)]


def _found(group: list[Record]) -> Sheet:
    def cell_of(found: list[Record]) -> str:
        shares = [record.metrics["streams_detected"] for record in found]
        delays = [record.metrics["detection_delay"].value for record in found]
        delay = "–" if None in delays else f"{np.median(delays):.0f}"
        queries = np.mean([record.metrics["queries_before_alarm"].value for record in found])
        return f"{_percent(shares)} · {delay} ({queries:.0f})"

    return _matrix(group, "attacks seen", FOUND, cell_of)


def _unnoticed(group: list[Record]) -> Sheet:
    def cell_of(found: list[Record]) -> str:
        return _share([record.metrics["unnoticed_success"] for record in found])

    return _matrix(group, "adversarial images found unnoticed", UNNOTICED, cell_of)


def _refused(group: list[Record]) -> Sheet:
    def cell_of(found: list[Record]) -> str:
        answered = np.mean([record.metrics["queries_answered"].value for record in found])
        return f"{_share([record.metrics['success_despite_refusals'] for record in found])} · {answered:.0f}"

    return _matrix(group, "found in spite of refusals", REFUSED, cell_of)


def _matrix(group: list[Record], what: str, note: str, cell_of) -> Sheet:
    """Rows are attacks with their traffic, in the records' order of names; columns are monitors."""
    monitors = sorted({record.cell.monitor: record.cell.show("monitor") for record in group}.items())
    rows = []
    for found in sorted(grouped(group, lambda cell: (cell.attack, cell.budget)), key=_place):
        by_monitor = {own[0].cell.monitor: own for own in grouped(found, lambda cell: (cell.monitor,))}
        cell = found[0].cell
        shown = [cell_of(by_monitor[it]) if it in by_monitor else "–" for it, _ in monitors]
        rows.append([f"{cell.show('attack')} · {cell.show('budget')}", *shown])
    return Sheet(f"{_title(group[0].cell)} · {what}", note, ["Attack", *(shown for _, shown in monitors)], rows)


def _place(found: list[Record]) -> tuple:
    cell = found[0].cell
    return cell.attack, [value for _, value in parse(cell.budget).kwargs]


def _title(cell) -> str:
    return f"{cell.show('dataset')} · {name(cell)}"


def _pooled(shares: list[MetricValue]) -> tuple[int, int]:
    return sum(round(it.value * it.n) for it in shares), sum(it.n for it in shares)


def _percent(shares: list[MetricValue]) -> str:
    hits, n = _pooled(shares)
    return f"{100 * hits / n:.0f}"


def _share(shares: list[MetricValue]) -> str:
    hits, n = _pooled(shares)
    low, high = clopper_pearson(hits, n)
    return f"{100 * hits / n:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _time(found: list[Record]) -> str:
    return f"{np.median([record.metrics['update_ms'].value for record in found]):.2f}"
