"""attack, certify: one cell each."""

import argparse
from collections.abc import Callable
from pathlib import Path

from robustbench_jax.bench import console, panels, records, runner
from robustbench_jax.bench.cells import Cell, make_cell, verb_of, with_timeout
from robustbench_jax.bench.collisions import collisions
from robustbench_jax.bench.verify import as_json, as_text, verify_files
from robustbench_jax.bench.workshop import Workshop
from robustbench_jax.types import Dataset, Outcome, UserError


def attack(options: argparse.Namespace) -> int:
    if options.save_images and not options.out:
        raise UserError("--save-images: say with --out where")
    cell = cell_of(options, attack=options.attack)
    require_verb("attack", cell)
    return one_cell(options, cell)


def require_verb(verb: str, cell: Cell) -> None:
    """UserError for a threat that another verb is for."""
    if (wanted := verb_of(cell.threat)) != verb:
        raise UserError(f"attack '{cell.method}' belongs to '{cell.threat}'; see the verb {wanted}")


def certify(options: argparse.Namespace) -> int:
    if options.vnnlib is not None:
        return _verify(options)
    for name in ("model", "dataset", "certifier", "budget"):
        if getattr(options, name) is None:
            raise UserError(f"the following arguments are required: --{name}")
    certifier = options.certifier
    if options.timeout is not None:
        certifier = with_timeout(certifier, options.timeout)
    return one_cell(options, cell_of(options, certifier=certifier))


def cell_of(options: argparse.Namespace, **method: str) -> Cell:
    """The cell that the options of a verb name. method: its attack or certifier, and what only some verbs have."""
    names = ("model", "dataset", "budget", "defence", "recipe", "model_defence", "examples", "seed")
    return make_cell(**method, **{name: getattr(options, name) for name in names})


def _verify(options: argparse.Namespace) -> int:
    """Prints unsat, sat with a counterexample, or timeout. All three are results: the exit code is 0."""
    for name in ("dataset", "certifier", "budget", "defence", "recipe", "model_defence", "examples", "out"):
        if getattr(options, name):
            raise UserError(f"--vnnlib says what is asked; leave out --{name.replace('_', '-')}")
    if options.model is None:
        raise UserError("the following arguments are required: --model")
    verdict, x = verify_files(options.vnnlib, options.model, options.timeout, seed=options.seed)
    print(as_json(verdict, x) if options.json else as_text(verdict, x))
    return 0


def one_cell(
    options: argparse.Namespace, cell: Cell, also: Callable[[Cell, Dataset, Outcome], None] = lambda *of: None
) -> int:
    """Runs one cell, keeps its record where --out says, and prints it. 1 where the record contradicts itself.

    also: what else is kept of it.
    """
    out = runner.require_out(options.out) if options.out else None
    with console.progress() as bars:
        workshop = Workshop(Path(out or "runs", "victims"), bars.training)
        data = workshop.dataset(cell.dataset, cell.split, cell.examples)
        model = workshop.victim(cell)
        pool = runner.training_images(cell, data, workshop.dataset)
        report = bars.cells(1)(0, cell, len(data))
        parts = {"pool": pool, "training": workshop.training(cell), "watched": workshop.watched(cell)}
        record, outcome = runner.run_cell(cell, model, data, **parts, report=report)
    if out:
        runner.keep(out, record, outcome)
        wanted = getattr(options, "save_images", False)
        picture = panels.save(out, record.id, cell.label(), model, data) if wanted else None
        if picture:
            console.say(f"written: {picture}")
        console.say(f"written: {out / records.CELLS / record.id}.json")
    also(cell, data, outcome)
    if options.json:
        print(record.to_json())
    else:
        console.show_record(record)
    found = collisions([record])
    for line in found:
        console.say(f"ALARM {line}")
    return 1 if found else 0
