"""poison, privacy, watermark: one cell of a threat whose models are trained for it, or the poisoned data themselves."""

import argparse
from pathlib import Path

import jax
import numpy as np

from robustbench_jax.bench import console, panels, records, runner
from robustbench_jax.bench.cells import Cell, trains
from robustbench_jax.bench.collisions import collisions
from robustbench_jax.bench.workshop import Workshop
from robustbench_jax.cli.cells import cell_of, one_cell, require_verb
from robustbench_jax.keys import stream
from robustbench_jax.registry import build
from robustbench_jax.threats.backdoor import poison as poisoned_by
from robustbench_jax.types import UserError
from robustbench_jax.whole_files import write_whole


def poison(options: argparse.Namespace) -> int:
    """Runs one cell, keeps its record where --out says, and prints it; with --export only writes the poisoned data."""
    if options.save_images and not options.out:
        raise UserError("--save-images: say with --out where")
    parts = {name: getattr(options, name) for name in ("data_defence", "inspection")}
    cell = cell_of(options, attack=options.attack, **parts)
    require_verb("poison", cell)
    return _one(options, cell)


def privacy(options: argparse.Namespace) -> int:
    """Runs one cell, keeps its record where --out says, and prints it. 1 where an audit refutes what is promised."""
    if options.save_images and not options.out:
        raise UserError("--save-images: say with --out where")
    cell = cell_of(options, attack=options.attack)
    require_verb("privacy", cell)
    options.export = None
    return _one(options, cell) if trains(cell.threat) else one_cell(options, cell)


def watermark(options: argparse.Namespace) -> int:
    """Runs one cell, keeps its record where --out says, and prints it."""
    cell = cell_of(options, attack=options.attack)
    require_verb("watermark", cell)
    options.export, options.save_images = None, False
    return _one(options, cell)


def _one(options: argparse.Namespace, cell: Cell) -> int:
    out = runner.require_out(options.out) if options.out else None
    with console.progress() as bars:
        workshop = Workshop(Path(out or "runs", "victims"), bars.training)
        data, lab = workshop.dataset(cell.dataset, cell.split, cell.examples), workshop.lab(cell)
        if options.export:
            return _export(cell, lab, options.export)
        report = bars.cells(1)(0, cell, len(data))
        record, outcome = runner.run_training_cell(cell, lab, data, report=report)
    if out:
        runner.keep(out, record, outcome)
        picture = panels.save(out, record.id, cell.label(), None, data) if options.save_images else None
        written = [str(path) for path in (picture, out / records.CELLS / f"{record.id}.json") if path]
        console.say(f"written: {', '.join(written)}")
    print(record.to_json()) if options.json else console.show_record(record)
    found = collisions([record])
    for line in found:
        console.say(f"ALARM {line}")
    return 1 if found else 0


def _export(cell: Cell, lab, path: str) -> int:
    """The poisoned training images with the clean test images, in the form that npz(...) reads."""
    attack = build("attack", cell.attack)
    if attack.goal == "targeted":
        raise UserError(f"--export: '{cell.method}' makes a poison set for each target; see arrays/ beside the record")
    key = stream(jax.random.key(cell.seed), "poison")
    found = poisoned_by(key, lab, attack, build("budget", cell.budget))
    arrays = {"x_train": found.dataset.x, "y_train": found.dataset.y, "x_test": lab.test.x, "y_test": lab.test.y}
    arrays["classes"], target = np.array(found.dataset.classes), Path(path)
    write_whole(target, lambda file: np.savez_compressed(file, **arrays, poisoned=found.poisoned))
    console.say(f"{int(found.poisoned.sum())} of {len(found.dataset)} images poisoned, SHA-256 {found.digest}")
    console.say(f"written: {target}; use it as --dataset 'npz(\"{target}\")'")
    return 0
