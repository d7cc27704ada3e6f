"""audit: a battery of checks on one model, one page about it, and an exit code for a pipeline."""

import argparse
from pathlib import Path

from robustbench_jax.bench import console, records, runner
from robustbench_jax.bench.collisions import collisions
from robustbench_jax.bench.findings import findings, read_audit
from robustbench_jax.bench.security_policy import load_policy
from robustbench_jax.bench.security_report import MARKS, SecurityReport, number, summary, wanted, write_report
from robustbench_jax.bench.workshop import Workshop
from robustbench_jax.ops.runtime import Runtime

LAST = "audit.json"


def audit(options: argparse.Namespace) -> int:
    """Runs what is missing of the policy's cells; 0 where every check passes and nothing contradicts itself, else 1."""
    names = ("model", "dataset", "defence", "recipe", "model_defence")
    victim = {name: getattr(options, name) for name in names if getattr(options, name)}
    policy = load_policy(options.policy, **victim)
    cells = tuple({check.cell.id: check.cell for check in policy.checks}.values())
    if options.dry_run:
        for check in policy.checks:
            print(f"{check.cell.id}  {check.name}: {check.cell.label()}")
        return 0
    out = runner.require_out(options.out or Path("runs", "audit"))
    last = options.against or (out / LAST if (out / LAST).is_file() else None)
    before = read_audit(last) if last else None
    with console.progress() as bars:
        workshop = Workshop(out / "victims", bars.training)
        runner.run_sweep(cells, out, runtime=Runtime(), workshop=workshop, begin=bars.cells(len(cells)))
    wanted_ids = {cell.id for cell in cells}
    found = {record.id: record for record in records.read_all(out)[0] if record.id in wanted_ids}
    report = SecurityReport(
        policy,
        options.model,
        options.dataset,
        tuple(findings(policy, found, before)),
        tuple(collisions(found.values())),
        before.get("started") if before else None,
    )
    written = write_report(report, out)
    for it in report.findings:
        console.say(f"{MARKS[it.verdict]} {it.verdict:<9} {it.check.name}: {number(it)}, wanted {wanted(it)}")
    for line in report.alarms:
        console.say(f"ALARM {line}")
    console.say(summary(report))
    console.say("written: " + ", ".join(map(str, written)))
    if options.json:
        print(written[2].read_text(), end="")
    return 0 if report.passed else 1
