"""sweep: every cell of a file."""

import argparse
import sys
from pathlib import Path

from robustbench_jax.bench import console, records, report, runner
from robustbench_jax.bench.collisions import collisions
from robustbench_jax.bench.config import load_sweep
from robustbench_jax.bench.workshop import Workshop


def sweep(options: argparse.Namespace) -> int:
    wanted = load_sweep(options.config, options.set)
    if options.dry_run:
        for cell in wanted.cells:
            print(f"{cell.id}  {cell.label()}")
        print(f"{len(wanted.cells)} cells", file=sys.stderr)
        return 0
    out = runner.require_out(options.out or Path("runs", wanted.name))
    with console.progress() as bars:
        workshop = Workshop(out / "victims", bars.training)
        summary = runner.run_sweep(
            wanted.cells,
            out,
            runtime=wanted.runtime,
            workshop=workshop,
            pictures=options.save_images,
            begin=bars.cells(len(wanted.cells)),
        )
    ids = {cell.id for cell in wanted.cells}
    found, damaged = records.read_all(out)
    found, baseline = [record for record in found if record.id in ids], wanted.baseline or None
    written = report.write_reports(found, out, wanted.title or wanted.name, baseline=baseline)
    console.show(found, baseline)
    console.say(f"{len(summary.ran)} cells run, {len(summary.kept)} were there already, {len(summary.failed)} failed")
    for line in damaged:
        console.say(f"passed over: {line}")
    console.say("written: " + ", ".join(str(path) for path in written) + f", {out / records.CELLS}")
    for cell, reason in summary.failed:
        console.say(f"failed: {cell.label()}: {reason} (see {out / records.CELLS / cell.id}.json)")
    return 1 if summary.failed or collisions(found) else 0
