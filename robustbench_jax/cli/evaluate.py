"""evaluate: the static and the adaptive attack on one model, and the signs of masked gradients."""

import argparse
from pathlib import Path

from robustbench_jax.bench import console, records, runner
from robustbench_jax.bench.collisions import collisions
from robustbench_jax.bench.evaluation import attacks, evaluation
from robustbench_jax.bench.workshop import Workshop
from robustbench_jax.cli.cells import cell_of


def evaluate(options: argparse.Namespace) -> int:
    """Runs two cells, or three, on one model, keeps their records where --out says, and prints them side by side."""
    cells = [cell_of(options, attack=attack) for attack in attacks(options.attack, False, options.checks)]
    out = runner.require_out(options.out) if options.out else None
    with console.progress() as bars:
        workshop = Workshop(Path(out or "runs", "victims"), bars.training)
        data, model = workshop.dataset(cells[0].dataset, cells[0].split, cells[0].examples), workshop.victim(cells[0])
        if model.rejects:
            cells = [cell_of(options, attack=attack) for attack in attacks(options.attack, True, options.checks)]
        begin, made = bars.cells(len(cells)), []
        for number, cell in enumerate(cells):
            record, outcome = runner.run_cell(
                cell,
                model,
                data,
                pool=runner.training_images(cell, data, workshop.dataset),
                training=workshop.training(cell),
                report=begin(number, cell, len(data)),
            )
            made.append(record)
            if out:
                runner.keep(out, record, outcome)
    found = evaluation(made)
    if out:
        console.say(f"written: {', '.join(str(out / records.CELLS / record.id) + '.json' for record in made)}")
    if options.json:
        print(found.to_json())
    else:
        console.show_evaluation(found)
    alarms = collisions(made)
    for line in alarms:
        console.say(f"ALARM {line}")
    return 1 if alarms else 0
