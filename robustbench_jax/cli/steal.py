"""steal: one cell of model extraction; the clone may be kept as a model."""

import argparse
from pathlib import Path

import jax

from robustbench_jax.bench import console, runner
from robustbench_jax.bench.cells import Cell
from robustbench_jax.cli.cells import cell_of, one_cell, require_verb
from robustbench_jax.models import build_model, files
from robustbench_jax.models.net import with_params
from robustbench_jax.registry import build
from robustbench_jax.types import Dataset, Outcome, UserError


def steal(options: argparse.Namespace) -> int:
    """Runs one cell, keeps its record where --out says, and prints it."""
    cell = cell_of(options, attack=options.attack)
    require_verb("steal", cell)
    architecture = getattr(build("attack", cell.attack), "model", None)
    if not options.save_clone:
        return one_cell(options, cell)
    if architecture is None:
        raise UserError(f"--save-clone: what '{cell.method}' makes has no architecture; see arrays/ beside the record")
    runner.require_out(Path(options.save_clone).absolute().parent, "--save-clone: its directory")

    def keep(cell: Cell, data: Dataset, outcome: Outcome) -> None:
        shape, classes = data.x.shape[1:], len(data.classes)
        fresh = build_model(architecture, shape, classes, jax.random.key(0))
        arrays = {name[6:]: jax.numpy.asarray(it) for name, it in outcome.artefacts.items() if name[:6] == "clone/"}
        clone = with_params(fresh, arrays, "the clone")
        description = files.describe(clone, architecture, shape, classes, stolen=cell.model_dump())
        console.say(f"written: {files.save(options.save_clone, clone, description)}")

    return one_cell(options, cell, keep)
