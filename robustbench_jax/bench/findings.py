"""Findings: what each check of a security policy found, and what became of it since the last audit.

A check holds where the whole 95% interval of its number is on the better side of the limit, fails where the number
itself is not, and is undecided between the two. A check whose cell failed was not made, which counts as a failure.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from robustbench_jax.bench.mitigations import Mitigation, advice
from robustbench_jax.bench.records import MetricValue, Record
from robustbench_jax.bench.security_policy import Check, SecurityPolicy
from robustbench_jax.types import UserError

HOLDS, UNDECIDED, FAILS, ERROR = "holds", "undecided", "fails", "not made"
VERDICTS = (HOLDS, UNDECIDED, FAILS, ERROR)


@dataclass(frozen=True)
class Finding:
    """before: what the last audit said of the check of that name, or None: (value, verdict)."""

    check: Check
    verdict: str
    metric: MetricValue | None
    record: Record
    before: tuple[float | None, str] | None
    advice: tuple[Mitigation, ...]

    @property
    def change(self) -> str:
        """ "", "new", "better", "worse" or "same" since the last audit, by the verdict and then by the number."""
        if self.before is None:
            return ""
        value, verdict = self.before
        if verdict != self.verdict:
            return "better" if VERDICTS.index(self.verdict) < VERDICTS.index(verdict) else "worse"
        own = self.metric.value if self.metric else None
        if own is None or value is None or own == value:
            return "same"
        return "better" if (own > value) == (self.check.better == "higher") else "worse"


def findings(policy: SecurityPolicy, records: dict[str, Record], before: dict[str, Any] | None) -> list[Finding]:
    """One for each check. records: by id. before: the last audit, as audit.json has it."""
    earlier = {it["name"]: (it["value"], it["verdict"]) for it in (before or {}).get("findings", ())}
    return [_finding(check, records[check.cell.id], earlier.get(check.name)) for check in policy.checks]


def _finding(check: Check, record: Record, before: tuple | None) -> Finding:
    metric = record.metrics.get(check.metric)
    verdict = ERROR if record.status != "ok" or metric is None else verdict_of(metric, check)
    found = () if verdict == HOLDS else advice(check.cell.threat)
    return Finding(check, verdict, metric, record, before, found)


def verdict_of(metric: MetricValue, check: Check) -> str:
    """A number without an interval is compared as it is; without a value it says nothing."""
    if metric.value is None:
        return UNDECIDED
    higher = check.better == "higher"
    bad_end = metric.low if higher else metric.high
    good = [
        number >= check.limit if higher else number <= check.limit
        for number in (metric.value, bad_end)
        if number is not None
    ]
    return HOLDS if all(good) else UNDECIDED if good[0] else FAILS


def passes(policy: SecurityPolicy, found: Iterable[Finding]) -> bool:
    allowed = (HOLDS,) if policy.strict else (HOLDS, UNDECIDED)
    return all(finding.verdict in allowed for finding in found)


def read_audit(path: str | Path) -> dict[str, Any]:
    """An audit.json. UserError where it is none."""
    try:
        found = json.loads(Path(path).read_text())
        if not isinstance(found, dict) or not all(
            {"name", "value", "verdict"} <= it.keys() for it in found["findings"]
        ):
            raise ValueError
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is no audit: it has no findings with name, value and verdict") from None
    return found
