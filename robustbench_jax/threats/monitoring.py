"""Monitoring: how soon does a monitor see an attack in the requests to a model, and how often does it see one in none?

The images `data` are shared out to honest accounts and attackers, every second one each, or all go to honest accounts
where nobody attacks; the monitor was prepared on training images. Honest accounts ask for as many days as the monitor
needs to fill its state, and one more that counts. An attack begins after a day of TOGETHER honest accounts, each stream
from there, so that none meets another. Its alarm is the first on any of its accounts; the request that raises it is
not answered. There a recorded attack ends, and one that learns from refusals goes on: no request that raises an alarm
is answered, and its accounts stay open.
Shapes: S streams.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from robustbench_jax import metrics
from robustbench_jax.keys import stream
from robustbench_jax.ops.judge import classify
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.ops.visits import Traffic
from robustbench_jax.registry import register
from robustbench_jax.streams import DAY, QueryStream, Stream, answered
from robustbench_jax.traffic import TOGETHER, Monitor, Request, Watch, honest, services
from robustbench_jax.types import Classifier, Dataset, Outcome, UserError

ONE = "monitor"  # the name of the only one in a Watch


@dataclass(frozen=True)
class Seen:
    """What a monitor made of one attack stream. at: which query raised the first alarm, from 1; None for none. useful:
    how many of use were answered before. unnoticed: the goal was reached before. answered: how many of use were
    answered in all.
    """

    at: int | None
    useful: int
    unnoticed: bool
    answered: int


@dataclass(eq=False)
class Visitor:
    """An attacker, who asks after the `number` requests that the watch has seen. alarms: whether queries raised one."""

    watch: Watch
    number: int
    budget: Traffic
    took: list[float]
    alarms: list[bool] = field(default_factory=list)

    def heard(self, x: np.ndarray, logits: np.ndarray) -> bool:
        """Whether the next query is answered."""
        row = len(self.alarms)
        account, when = f"attacker {row % self.budget.accounts}", DAY + row * self.budget.every
        self.alarms.append(_timed(self.watch, Request(account, when, self.number + row, x, logits), self.took))
        return not self.alarms[-1]

    def seen(self, stream: Stream) -> Seen:
        """What came of a stream whose queries were asked, all or up to the alarm."""
        at = self.alarms.index(True) if True in self.alarms else None
        unnoticed = stream.reached is not None and stream.reached <= (len(stream) if at is None else at)
        useful = stream.useful[: len(self.alarms)] & ~np.array(self.alarms, bool)
        return Seen(None if at is None else at + 1, int(useful[:at].sum()), unnoticed, int(useful.sum()))


@register("threat", "monitoring", verb="monitor")
def run(
    key: jax.Array,
    model: Classifier,
    data: Dataset,
    attack: QueryStream,
    budget: Traffic,
    *,
    monitor: Monitor,
    streams: Sequence[Stream] | None = None,
    runtime: Runtime = Runtime(),
    report: Callable[[int], None] = lambda settled: None,
) -> Outcome:
    """Replays honest days, or the streams of an attack, before a prepared monitor. The key is consumed.

    streams: what `record` gave for the same key; None to have them recorded.
    Artefacts, of an attack: alarm int[S], the query that raised it, 0 for none; useful int[S], those of use answered
    before; reached int[S], the query that reached its goal, 0 for none; unnoticed bool[S], whether it was before; of
    one that learns from refusals, answered int[S], queries of use that were answered.
    """
    visitors = data if attack.honest else _shared(data)[0]
    took: list[float] = []
    if attack.honest:
        found, artefacts = _false_alarms(stream(key, "days"), model, visitors, attack, budget, monitor, took), {}
    else:
        if attack.adaptive:
            own = _shared(data)[1]
            found, artefacts = _contest(key, model, visitors, own, attack, budget, monitor, took, runtime)
        else:
            streams = record(key, model, data, attack, budget, runtime=runtime) if streams is None else streams
            found, artefacts = _detection(stream(key, "before"), model, visitors, streams, budget, monitor, took)
        if attack.goal:
            found["unnoticed_success"] = metrics.proportion("unnoticed_success", artefacts["unnoticed"])
    found["update_ms"] = metrics.number("update_ms", 1000 * float(np.median(took)), len(took))
    correct = classify(model, data.x, runtime) == data.y
    report(len(data))
    artefacts["threshold"] = np.array(monitor.threshold)
    return Outcome(
        found | {"clean_accuracy": metrics.proportion("clean_accuracy", correct)},
        {"clean_correct": correct},
        artefacts=artefacts,
    )


def record(
    key: jax.Array,
    model: Classifier,
    data: Dataset,
    attack: QueryStream,
    budget: Traffic,
    *,
    runtime: Runtime = Runtime(),
) -> list[Stream]:
    """What an attack asks with the attackers' share of the images; nothing for honest accounts, and for an attack whose
    queries depend on the monitor. The key is consumed.
    """
    if attack.honest or attack.adaptive:
        return []
    own = _shared(data)[1]
    return attack.record(stream(key, "attack"), model, own, budget.streams, budget.queries, runtime=runtime)


def _shared(data: Dataset) -> tuple[Dataset, Dataset]:
    """The images of honest accounts and those of attackers."""
    if len(data) < 2:
        raise UserError(f"examples = {len(data)}: honest accounts and attackers need images of their own; give 2")
    even = np.arange(len(data)) % 2 == 0
    return data.rows(even), data.rows(~even)


def _false_alarms(key, model, visitors, attack, budget, monitor, took) -> dict[str, Any]:
    habits = replace(attack.habits, queries=budget.queries)
    alarms, alarmed = 0, []
    for requests in services(key, model, visitors, budget.streams, monitor.warm + 1, habits=habits):
        on, ever = (dict.fromkeys((request.account for request in requests), False) for _ in range(2))
        watch = Watch({ONE: monitor})
        for request in requests:
            alarm, counts = _timed(watch, request, took), request.time >= monitor.warm * DAY
            alarms += alarm and counts and not on[request.account]
            ever[request.account] |= alarm and counts
            on[request.account] = alarm
        alarmed += ever.values()
    return {
        "false_alarms": metrics.rate("false_alarms", alarms, len(alarmed)),
        "alarmed_days": metrics.proportion("alarmed_days", np.array(alarmed)),
    }


def _detection(key, model, visitors, streams: Sequence[Stream], budget, monitor, took) -> tuple[dict, dict]:
    attackers = _attackers(key, model, visitors, len(streams), budget, monitor, took)
    for attacker, own in zip(attackers, streams, strict=True):
        _first_refused(attacker, own)
    return _found(attackers, streams)


def _contest(key, model, visitors, own: Dataset, attack, budget, monitor, took, runtime) -> tuple[dict, dict]:
    """An attack that learns from refusals, played against the monitor."""
    attackers = _attackers(stream(key, "before"), model, visitors, budget.streams, budget, monitor, took)

    def ask(who: list[int], images: list[np.ndarray]) -> list[int]:
        told = answered(model, images, runtime)
        return [_first_refused(attackers[row], it) for row, it in zip(who, told, strict=True)]

    streams = attack.play(stream(key, "attack"), model, own, budget.streams, budget.queries, ask, runtime=runtime)
    found, artefacts = _found(attackers, streams)
    artefacts["answered"] = np.array([it.seen(own).answered for it, own in zip(attackers, streams, strict=True)])
    found["queries_answered"] = metrics.mean("queries_answered", artefacts["answered"])
    found["success_despite_refusals"] = metrics.proportion("success_despite_refusals", artefacts["reached"] > 0)
    return found, artefacts


def _first_refused(attacker: Visitor, asked: Stream) -> int:
    """How many queries are answered before one is refused; the last that is asked."""
    for row, (x, logits) in enumerate(zip(asked.x, asked.logits, strict=True)):
        if not attacker.heard(x, logits):
            return row
    return len(asked)


def _attackers(key, model, visitors, count: int, budget, monitor, took) -> list[Visitor]:
    """Attackers who do not meet, each after the same honest day."""
    before, day = Watch({ONE: monitor}), honest(key, model, visitors, TOGETHER, 1)
    for request in day:
        before.see(request)
    return [Visitor(before.copy(), len(day), budget, took) for _ in range(count)]


def _found(attackers: Sequence[Visitor], streams: Sequence[Stream]) -> tuple[dict, dict]:
    seen = [attacker.seen(stream) for attacker, stream in zip(attackers, streams, strict=True)]
    at = np.array([np.inf if it.at is None else it.at for it in seen])
    found = {
        "streams_detected": metrics.proportion("streams_detected", np.isfinite(at)),
        "detection_delay": metrics.median("detection_delay", at),
        "queries_before_alarm": metrics.mean("queries_before_alarm", np.array([it.useful for it in seen])),
    }
    artefacts = {
        "alarm": np.array([it.at or 0 for it in seen]),
        "useful": np.array([it.useful for it in seen]),
        "reached": np.array([stream.reached or 0 for stream in streams]),
        "unnoticed": np.array([it.unnoticed for it in seen]),
    }
    return found, artefacts


def _timed(watch: Watch, request: Request, took: list[float]) -> bool:
    began = time.perf_counter()
    alarm = watch.see(request)[ONE].alarm
    took.append(time.perf_counter() - began)
    return alarm
