"""The security report: one page a model (HTML, Markdown, JSON) and a plan for when something happens.

Everything is a function of the policy, the findings and the records' provenance; nothing is measured here.
"""

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from robustbench_jax.bench.findings import ERROR, FAILS, HOLDS, UNDECIDED, Finding, passes
from robustbench_jax.bench.lifecycle import Item, checklist
from robustbench_jax.bench.security_policy import LIMITS, SecurityPolicy
from robustbench_jax.bench.sheets import bar
from robustbench_jax.definitions import DEFINITIONS, heading
from robustbench_jax.registry import entry
from robustbench_jax.whole_files import write_whole

MARKS = {HOLDS: "✓", UNDECIDED: "?", FAILS: "✗", ERROR: "!"}
SCHEMA = 1
THREATS = ("evasion", "poisoning", "backdoor", "extraction", "inversion", "privacy")  # the six
FAMILY = {  # what each procedure belongs to
    "certification": "evasion",
    "corruption": "evasion",
    "obfuscation": "evasion",
    "monitoring": "extraction",
    "ownership": "extraction",
    "reverse_engineering": "extraction",
    "byzantine": "poisoning",
    "gradient_inversion": "inversion",
    "model_inversion": "inversion",
    "attribute": "inversion",
    "membership": "privacy",
    "audit": "privacy",
    "repeated_audit": "privacy",
    "white_box_audit": "privacy",
}


@dataclass(frozen=True)
class SecurityReport:
    """model, dataset: call strings as the audit was given them. last: when the last audit was, or None."""

    policy: SecurityPolicy
    model: str
    dataset: str
    findings: tuple[Finding, ...]
    alarms: tuple[str, ...] = ()
    last: str | None = None

    @property
    def passed(self) -> bool:
        return not self.alarms and passes(self.policy, self.findings)

    @property
    def items(self) -> list[Item]:
        return checklist(self.policy, self.model, self.dataset, self.findings)

    @property
    def started(self) -> str:
        return min(finding.record.provenance.get("started", "") for finding in self.findings)

    @property
    def uncovered(self) -> list[str]:
        """Those of the six threats that no check is about."""
        covered = {family(finding) for finding in self.findings}
        return [threat for threat in THREATS if threat not in covered]

    @property
    def helpless(self) -> list[str]:
        """The checks that do not hold, and of whose threat nothing that helps was measured."""
        return [it.check.name for it in self.findings if it.verdict != HOLDS and not it.advice]

    @property
    def counts(self) -> dict[str, int]:
        return {verdict: sum(it.verdict == verdict for it in self.findings) for verdict in MARKS}


def family(finding: Finding) -> str:
    threat = finding.check.cell.threat
    return FAMILY.get(threat, threat)


def write_report(report: SecurityReport, out: str | Path) -> list[Path]:
    """audit.html, audit.md, audit.json and incident_plan.md in the directory `out`; returns the paths."""
    texts = {
        "audit.html": rendered(report, "audit.html.j2", escape=True),
        "audit.md": markdown(report),
        "audit.json": json.dumps(as_json(report), indent=1, allow_nan=False) + "\n",
        "incident_plan.md": rendered(report, "incident_plan.md.j2", escape=False),
    }
    paths = [Path(out, name) for name in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_whole(path, lambda file, text=text: file.write(text.encode()))
    return paths


def as_json(report: SecurityReport) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "title": report.policy.title,
        "model": report.model,
        "dataset": report.dataset,
        "started": report.started,
        "passed": report.passed,
        "alarms": list(report.alarms),
        "uncovered": report.uncovered,
        "findings": [_finding(finding) for finding in report.findings],
        "checklist": [{"phase": it.phase, "what": it.what, "evidence": list(it.evidence)} for it in report.items],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    check, metric = finding.check, finding.metric
    return {
        "name": check.name,
        "threat": check.cell.threat,
        "verdict": finding.verdict,
        "metric": check.metric,
        "value": metric.value if metric else None,
        "low": metric.low if metric else None,
        "high": metric.high if metric else None,
        "n": metric.n if metric else 0,
        "limit": check.limit,
        "better": check.better,
        "change": finding.change,
        "cell": check.cell.id,
        "call": tried(finding),
        "flags": finding.record.flags,
        "advice": [vars(it) for it in finding.advice],
    }


def tried(finding: Finding) -> str:
    """What was done: the attack or certifier, its budget, and the victim where it is not the audited model as it is."""
    cell = finding.check.cell
    return f"{cell.method} · {cell.show('budget')} · {cell.victim}"


def number(finding: Finding) -> str:
    """ "0.868 [0.835, 0.896]"; the reason where there is none."""
    metric = finding.metric
    if metric is None or metric.value is None:
        return reason(finding)
    spread = "" if metric.low is None or metric.high is None else f" [{metric.low:.3g}, {metric.high:.3g}]"
    return f"{metric.value:.3g}{spread}"


def reason(finding: Finding) -> str:
    """Why there is no number: the last line of the traceback."""
    if finding.record.status == "ok":
        return "nothing to count" if finding.metric else f"no {finding.check.metric} in its record"
    lines = (finding.record.error or "failed").strip().splitlines()
    return lines[-1] if lines else "failed"


def wanted(finding: Finding) -> str:
    """ "≥ 0.5"."""
    sign = "≥" if finding.check.better == "higher" else "≤"
    return f"{sign} {finding.check.limit:g}"


def before(finding: Finding) -> str:
    """ "0.71, holds (worse)"; empty where there was no such check."""
    if finding.before is None:
        return "–"
    value, verdict = finding.before
    return f"{'–' if value is None else f'{value:.3g}'}, {verdict} ({finding.change})"


def markdown(report: SecurityReport) -> str:
    head = ["", "Check", "Number", "Limit", "What was done", "n"] + ["Last audit"] * bool(report.last)
    lines = [f"# {report.policy.title}", "", summary(report), ""]
    lines += [f"- ALARM {alarm}" for alarm in report.alarms] + [""] * bool(report.alarms)
    lines += [bar(head), bar(["---"] * len(head))]
    for it in report.findings:
        n = str(it.metric.n) if it.metric else "–"
        row = [f"{MARKS[it.verdict]} {it.verdict}", it.check.name, number(it), wanted(it), f"`{tried(it)}`", n]
        lines.append(bar(row + [before(it)] * bool(report.last)))
    lines += ["", *_advice(report), "## Secure development lifecycle", ""]
    for item in report.items:
        shown = ", ".join(f"`{it}`" for it in item.evidence) or "no evidence"
        lines.append(f"- [{'x' if item.evidence else ' '}] {item.phase}: {item.what} ({shown})")
    return "\n".join(lines) + "\n"


def summary(report: SecurityReport) -> str:
    counts = ", ".join(f"{count} {verdict}" for verdict, count in report.counts.items() if count)
    gaps = f" Not covered: {', '.join(report.uncovered)}." if report.uncovered else ""
    since = f" Compared with the audit of {report.last}." if report.last else ""
    said = "PASSED" if report.passed else "FAILED"
    return f"{said}: {report.model} on {report.dataset}, {report.started}. Checks: {counts}.{gaps}{since}"


def _advice(report: SecurityReport) -> list[str]:
    lines = []
    for finding in report.findings:
        if finding.advice:
            lines += [f"### {finding.check.name}", ""]
            lines += [f"- {it.what} (`{it.call}`): {it.shown} ({it.source})" for it in finding.advice] + [""]
    if report.helpless:
        lines += [f"Nothing that helps was measured here for: {', '.join(report.helpless)}.", ""]
    return ["## What to do", "", *lines] if lines else []


def rendered(report: SecurityReport, template: str, *, escape: bool) -> str:
    import jinja2

    environment = jinja2.Environment(
        autoescape=escape, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {f.__name__: f for f in (before, family, heading, number, tried, wanted)}
    text = resources.files("robustbench_jax.bench").joinpath(f"templates/{template}").read_text()
    return environment.from_string(text).render(
        report=report,
        summary=summary(report),
        marks=MARKS,
        limits=LIMITS,
        definitions={it.check.metric: DEFINITIONS[it.check.metric] for it in report.findings},
        papers={it.check.name: _paper(it) for it in report.findings},
    )


def _paper(finding: Finding) -> str:
    cell = finding.check.cell
    kind = "certifier" if cell.certifier else "attack"
    return entry(kind, cell.method.split("(")[0]).paper or ""
