"""leaderboard, compare, cite, list: what is computed from records, and what there is."""

import argparse
import json
from pathlib import Path

from robustbench_jax.bench import citations, console, records, report
from robustbench_jax.bench import compare as comparing
from robustbench_jax.types import UserError

CATALOGUE = {
    "aggregations": "aggregation",
    "attacks": "attack",
    "budgets": "budget",
    "certifiers": "certifier",
    "data-defences": "data_defence",
    "datasets": "dataset",
    "defences": "training",
    "inspections": "inspection",
    "losses": "loss",
    "model-defences": "model_defence",
    "models": "model",
    "monitors": "monitor",
    "recipes": "recipe",
    "threats": "threat",
    "trained": "pretrained",
}


def leaderboard(options: argparse.Namespace) -> int:
    found, damaged = records.read_all(options.results)
    for line in damaged:
        console.say(f"passed over: {line}")
    if not found:
        raise UserError(f"{options.results} holds no records")
    console.show(found, options.baseline)
    title = Path(options.results).absolute().name
    out = options.out or options.results
    written = report.write_reports(found, out, title, options.format, baseline=options.baseline)
    console.say("written: " + ", ".join(map(str, written)))
    return 0


def compare(options: argparse.Namespace) -> int:
    found, damaged = records.read_all(options.results)
    for line in damaged:
        console.say(f"passed over: {line}")
    compared, over = comparing.compare(found, options.a, options.b)
    if options.json:
        print(json.dumps({"compared": list(map(vars, compared)), "over_seeds": list(map(vars, over))}))
    else:
        console.page(comparing.sheet(compared, over, options.a, options.b))
    return 0


def cite(options: argparse.Namespace) -> int:
    found = citations.cite(options.things)
    for line in found.doubts:
        console.say(line)
    print("\n".join(found.keys) if options.keys else found.bibtex(), end="\n" if options.keys else "")
    return 0


def catalogue(options: argparse.Namespace) -> int:
    for what in [options.kind] if options.kind else [*CATALOGUE, "zoo"]:
        console.catalogue(what, CATALOGUE.get(what))
    return 0
