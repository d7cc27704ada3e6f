"""The report of an incident, out of the log: who asked what, when and how often, what was found, and who changed what.

Kinds of entries that it knows (any other is counted):

    request   account, input, images     one call for predictions
    verdict   account, verdict, ...      what was decided of a request: any word; whatever else is there is evidence
    alert     account, monitor, ...      what a monitor found; whatever else is there is evidence
    admin     account, act, ...          an administrative act, by whom

The log's own entries (opened, continued, recovered, closed) stand among the administrative acts.
"""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from robustbench_jax.registry import nearest
from robustbench_jax.serving.chain import (
    CLOSED,
    CONTINUED,
    OPENED,
    OWN,
    RECOVERED,
    SIGNATURE,
    Entry,
    Verdict,
    entries,
    verify,
)
from robustbench_jax.types import UserError

REQUEST, VERDICT, ALERT, ADMIN = "request", "verdict", "alert", "admin"
ACTS = (ADMIN, OPENED, CONTINUED, RECOVERED, CLOSED)
SHOWN = 50  # lines of evidence on a page; JSON has all
NOBODY = "(no account)"


@dataclass
class Account:
    """What one account did. busiest: the most requests in one minute, and which minute."""

    requests: int = 0
    images: int = 0
    verdicts: Counter = field(default_factory=Counter)
    alerts: int = 0
    first: str = ""
    last: str = ""
    minutes: Counter = field(default_factory=Counter, repr=False)

    def see(self, entry: Entry) -> None:
        self.first = self.first or entry.time
        self.last = entry.time
        if entry.kind == REQUEST:
            self.requests += 1
            self.images += _count(entry)
            self.minutes[entry.time[:16]] += 1
        elif entry.kind == VERDICT:
            self.verdicts[str(entry.get("verdict"))] += 1
        elif entry.kind == ALERT:
            self.alerts += 1

    @property
    def busiest(self) -> tuple[str, int]:
        return max(self.minutes.items(), key=lambda item: item[1], default=("", 0))

    def as_dict(self) -> dict[str, Any]:
        minute, most = self.busiest
        own = {name: value for name, value in asdict(self).items() if name != "minutes"}
        return own | {"verdicts": dict(self.verdicts), "busiest_minute": minute, "requests_in_it": most}


@dataclass
class Report:
    """verdict: whether the log can be believed. chosen: which entries. first, last: their times. kinds: how many each.
    evidence: alerts, and verdicts that say why. acts: administrative ones.
    """

    verdict: Verdict
    chosen: dict[str, Any]
    first: str = ""
    last: str = ""
    kinds: Counter = field(default_factory=Counter)
    accounts: dict[str, Account] = field(default_factory=dict)
    evidence: list[Entry] = field(default_factory=list)
    acts: list[Entry] = field(default_factory=list)

    def see(self, entry: Entry) -> None:
        self.first, self.last = self.first or entry.time, entry.time
        self.kinds[entry.kind] += 1
        if entry.kind in (REQUEST, VERDICT, ALERT):
            self.accounts.setdefault(str(entry.get("account") or NOBODY), Account()).see(entry)
        if entry.kind == ALERT or (entry.kind == VERDICT and entry.get("evidence")):
            self.evidence.append(entry)
        if entry.kind in ACTS:
            self.acts.append(entry)

    @property
    def busiest_first(self) -> dict[str, Account]:
        return dict(sorted(self.accounts.items(), key=lambda item: -item[1].requests))

    def as_dict(self) -> dict[str, Any]:
        return {
            "log": self.verdict.as_dict(),
            "chosen": self.chosen,
            "period": [self.first, self.last],
            "kinds": dict(self.kinds.most_common()),
            "accounts": {name: account.as_dict() for name, account in self.busiest_first.items()},
            "evidence": [asdict(entry) for entry in self.evidence],
            "acts": [asdict(entry) for entry in self.acts],
        }

    def markdown(self) -> str:
        """One page. What clients wrote stands in it as code and cannot change its form."""
        chosen = ", ".join(f"{name} {_code(value)}" for name, value in self.chosen.items()) or "everything"
        lines = [
            f"# Incident report: {_code(Path(self.verdict.path).name)}",
            "",
            *_state(self.verdict),
            f"Chosen: {chosen}. Period: {self.first or '–'} to {self.last or '–'} (UTC).",
            "Entries: " + (", ".join(f"{count:,} {kind}" for kind, count in self.kinds.most_common()) or "none") + ".",
            *_table("Accounts", HEADS, [_row(name, account) for name, account in self.busiest_first.items()]),
            *_table("Alerts and verdicts with evidence", ("entry", "time", "account", "what"), _listed(self.evidence)),
            *_table("Administrative acts", ("entry", "time", "account", "what"), _listed(self.acts)),
        ]
        return "\n".join(lines) + "\n"


HEADS = ("account", "requests", "images", "verdicts", "alerts", "first", "last", "busiest minute")


def report(
    path: str | Path,
    *,
    account: str | None = None,
    since: str | None = None,
    until: str | None = None,
    kinds: Iterable[str] | None = None,
    public_key: str | Path | None = None,
) -> Report:
    """What the log says of an account (None: all), from `since` until before `until` (ISO 8601; UTC where no zone is
    given), of some kinds (None: all but signatures). Entries that do not verify are left out and the report says so.
    UserError for a time that is none, and for a kind that neither the log has nor a server writes.
    """
    low, high = instant(since) if since else "", instant(until) if until else "~"
    wanted = {"account": account, "since": since, "until": until, "kinds": list(kinds) if kinds else None}
    made = Report(verify(path, public_key), {name: value for name, value in wanted.items() if value})
    known = {REQUEST, VERDICT, ALERT, ADMIN, *OWN}
    for entry in entries(path, damaged=False):
        known.add(entry.kind)
        of_account = account is None or entry.get("account") == account
        of_kind = entry.kind in wanted["kinds"] if wanted["kinds"] else entry.kind != SIGNATURE
        if low <= entry.time < high and of_account and of_kind:
            made.see(entry)
    for kind in wanted["kinds"] or ():
        if kind not in known:
            raise UserError(f"{path} has no entry of kind '{kind}'{nearest(kind, sorted(known))}")
    return made


def instant(text: str) -> str:
    """A time as entries have it. UserError for what is none."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(f"'{text}' is no time; write e.g. 2026-11-27 or 2026-11-27T03:28:00") from None
    time = time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    return time.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _count(entry: Entry) -> int:
    images = entry.get("images", 1)
    return images if isinstance(images, int) else 1


def _state(verdict: Verdict) -> list[str]:
    if verdict:
        return [f"The log verifies: {verdict.entries:,} entries; {verdict.covered()}.", ""]
    said = [f"- {_code(Path(it.file).name)}, line {it.line}: {it.what}" for it in verdict.problems[:SHOWN]]
    more = len(verdict.problems) - SHOWN
    return ["**The log does not verify**; what follows may be wrong or incomplete:", "", *said, *_more(more), ""]


def _row(name: str, account: Account) -> tuple[str, ...]:
    verdicts = ", ".join(f"{_code(word)} {count:,}" for word, count in account.verdicts.most_common()) or "–"
    minute, most = account.busiest
    counts = f"{account.requests:,}", f"{account.images:,}", verdicts, f"{account.alerts:,}"
    return _code(name), *counts, account.first, account.last, f"{most:,} at {minute}" if most else "–"


def _listed(found: list[Entry]) -> list[tuple[str, ...]]:
    rows = []
    for entry in found:
        rest = {name: value for name, value in entry.fields.items() if name not in ("account", "input")}
        who = _code(entry.get("account")) if entry.get("account") else "–"
        rows.append((str(entry.number), entry.time, who, f"{entry.kind} {_code(rest)}"))
    return rows


def _table(title: str, heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    if not rows:
        return ["", f"## {title}", "", "None."]
    lines = [f"| {' | '.join(row)} |" for row in (heads, ("---",) * len(heads), *rows[:SHOWN])]
    return ["", f"## {title}", "", *lines, *_more(len(rows) - SHOWN)]


def _more(count: int) -> list[str]:
    return ["", f"... and {count:,} more: see --json"] if count > 0 else []


def _code(value: Any) -> str:
    """As code, on one line, whatever is in it."""
    text = value if isinstance(value, str) and value.isascii() and value.isprintable() else json.dumps(value)
    return "`" + text.replace("`", "'").replace("|", "\\|") + "`"
