"""The command line: robustbench-jax sweep | attack | certify | train | leaderboard | list.

Everything for people goes to stderr, results go to stdout. Wrong input is one line and exit code 2; a sweep with failed
cells, or in which an attack breaks what is certified, ends with 1, an interrupted one with 130.
"""

import argparse
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from robustbench_jax.types import UserError

CATALOGUE = {
    "attacks": "attack",
    "budgets": "budget",
    "certifiers": "certifier",
    "datasets": "dataset",
    "defences": "training",
    "losses": "loss",
    "model-defences": "model_defence",
    "models": "model",
    "recipes": "recipe",
    "threats": "threat",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        options = _parser().parse_args(arguments)
        use_all_cores()
        return options.run(options)
    except UserError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        print(f"robustbench-jax: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "robustbench-jax: stopped; what was finished is kept, the same command goes on from there", file=sys.stderr
        )
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line as one line, with the nearest right word."""

    def parse_known_args(self, args=None, namespace=None):
        """Looks for unknown flags first: argparse reports what a misspelt one leaves missing."""
        for word in args if self._subparsers is None else ():
            if word == "--":
                break
            if word.startswith("--") and word.split("=")[0] not in self._option_string_actions:
                self.error(f"unrecognized arguments: {word}")
        return super().parse_known_args(args, namespace)

    def error(self, message: str):
        from robustbench_jax.registry import nearest

        hint = ""
        if message.startswith("unrecognized arguments: "):
            word = message.split(": ")[1].split()[0].split("=")[0]
            known = [flag for flag in self._option_string_actions if flag.startswith("--")]
            hint = nearest(word, known)
        elif "invalid choice: " in message:
            word = message.split("invalid choice: ")[1].split("'")[1]
            action = next(a for a in self._actions if a.choices and word not in a.choices)
            message, hint = f"no {action.dest} '{word}'", nearest(word, action.choices)
        raise UserError(f"{message}{hint}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="robustbench-jax", description="Benchmarks the security of machine-learning models.")
    parser.add_argument("--version", action="version", version=_version())
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)

    def verb(name: str, run, help: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=help, description=help, allow_abbrev=False)
        made.set_defaults(run=run)
        made.add_argument("--debug", action="store_true", help="show tracebacks")
        return made

    sweep = verb("sweep", _sweep, "Run every cell of a sweep file that has no result yet, and write the leaderboard.")
    sweep.add_argument("config", metavar="CONFIG.toml")
    sweep.add_argument("--out", metavar="DIR", help="results directory (default: runs/NAME)")
    sweep.add_argument("--set", metavar="K=V", action="append", default=[], help="override a key of the file")
    sweep.add_argument("--dry-run", action="store_true", help="print the cells and stop")
    sweep.add_argument("--save-images", action="store_true", help="draw what each attack did: DIR/images/CELL.png")

    attack = verb("attack", _attack, "Attack one model.")
    for name, what in (
        ("model", 'zoo name, checkpoint("dir") or architecture'),
        ("dataset", "e.g. fashion_mnist_mini"),
        ("attack", "e.g. pgd(steps=40)"),
        ("budget", "e.g. linf(8/255)"),
    ):
        attack.add_argument(f"--{name}", required=True, metavar=name[0].upper(), help=what)
    _add_victim(attack)
    attack.add_argument("--examples", type=int, metavar="N", help="the first N test images (default: all)")
    attack.add_argument("--seed", type=int, default=0, metavar="S")
    attack.add_argument("--out", metavar="DIR", help="keep the record and the adversarial examples there")
    attack.add_argument("--save-images", action="store_true", help="draw what it did: DIR/images/CELL.png; needs --out")
    attack.add_argument("--json", action="store_true", help="print the record as JSON")

    certify = verb("certify", _certify, "Certify one model: prove of images that nothing in the budget changes them.")
    for name, what in (
        ("model", 'zoo name, checkpoint("dir") or architecture'),
        ("dataset", "e.g. fashion_mnist_mini"),
        ("certifier", "what there is: robustbench-jax list certifiers"),
        ("budget", "e.g. linf(8/255)"),
    ):
        certify.add_argument(f"--{name}", metavar=name[0].upper(), help=what)
    _add_victim(certify)
    certify.add_argument("--examples", type=int, metavar="N", help="the first N test images (default: all)")
    certify.add_argument("--seed", type=int, default=0, metavar="S")
    certify.add_argument("--timeout", type=float, metavar="S", help="seconds for each image, where a certifier has it")
    certify.add_argument("--vnnlib", metavar="SPEC", help='verify this specification instead; model: onnx("m.onnx")')
    certify.add_argument("--out", metavar="DIR", help="keep the record and the counterexamples there")
    certify.add_argument("--json", action="store_true", help="print the record as JSON")

    train = verb("train", _train, "Train a model; a run that was killed goes on from its last checkpoint.")
    train.add_argument("--dataset", required=True, metavar="D")
    train.add_argument("--model", required=True, metavar="M", help="an architecture, e.g. cnn")
    _add_training(train)
    train.add_argument("--out", metavar="DIR", help="default: models/MODEL-DATASET-DEFENCE-SEED")
    train.add_argument("--seed", type=int, default=0, metavar="S")

    board = verb("leaderboard", _leaderboard, "Write the leaderboard of a results directory.")
    board.add_argument("results", metavar="RESULTS_DIR")
    board.add_argument("--out", metavar="DIR", help="default: RESULTS_DIR")
    board.add_argument(
        "--format", nargs="+", choices=("md", "csv", "tex", "html"), default=["md", "csv", "tex", "html"]
    )

    board.add_argument("--baseline", metavar="MODEL", help="corruptions: the model that mCE is measured against")

    catalogue = verb("list", _list, "List what there is, with arguments and defaults.")
    catalogue.add_argument("kind", nargs="?", choices=[*CATALOGUE, "zoo"])
    return parser


def _add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--defence", metavar="T", default="", help="e.g. adversarial_training(pgd(steps=7), linf(0.1))")
    parser.add_argument("--recipe", metavar="R", default="", help="e.g. sgd(epochs=20, learning_rate=0.05)")


def _add_victim(parser: argparse.ArgumentParser) -> None:
    _add_training(parser)
    parser.add_argument("--model-defence", metavar="T", default="", help="e.g. jpeg(75)")


def _sweep(options: argparse.Namespace) -> int:
    from robustbench_jax.bench import console, records, report, runner
    from robustbench_jax.bench.collisions import collisions
    from robustbench_jax.bench.config import load_sweep
    from robustbench_jax.bench.workshop import Workshop

    sweep = load_sweep(options.config, options.set)
    if options.dry_run:
        for cell in sweep.cells:
            print(f"{cell.id}  {cell.label()}")
        print(f"{len(sweep.cells)} cells", file=sys.stderr)
        return 0
    out = runner.require_out(options.out or Path("runs", sweep.name))
    with console.progress() as bars:
        workshop = Workshop(out / "victims", bars.training)
        summary = runner.run_sweep(
            sweep.cells,
            out,
            runtime=sweep.runtime,
            workshop=workshop,
            pictures=options.save_images,
            begin=bars.cells(len(sweep.cells)),
        )
    ids = {cell.id for cell in sweep.cells}
    found, damaged = records.read_all(out)
    found, baseline = [record for record in found if record.id in ids], sweep.baseline or None
    written = report.write_reports(found, out, sweep.title or sweep.name, baseline=baseline)
    console.show(found, baseline)
    console.say(f"{len(summary.ran)} cells run, {len(summary.kept)} were there already, {len(summary.failed)} failed")
    for line in damaged:
        console.say(f"passed over: {line}")
    console.say("written: " + ", ".join(str(path) for path in written) + f", {out / records.CELLS}")
    for cell, reason in summary.failed:
        console.say(f"failed: {cell.label()}: {reason} (see {out / records.CELLS / cell.id}.json)")
    return 1 if summary.failed or collisions(found) else 0


def _attack(options: argparse.Namespace) -> int:
    from robustbench_jax.bench.cells import make_cell

    if options.save_images and not options.out:
        raise UserError("--save-images: say with --out where")
    cell = make_cell(
        model=options.model,
        dataset=options.dataset,
        attack=options.attack,
        budget=options.budget,
        defence=options.defence,
        recipe=options.recipe,
        model_defence=options.model_defence,
        examples=options.examples,
        seed=options.seed,
    )
    return _one(options, cell)


def _certify(options: argparse.Namespace) -> int:
    from robustbench_jax.bench.cells import make_cell, with_timeout

    if options.vnnlib is not None:
        return _verify(options)
    for name in ("model", "dataset", "certifier", "budget"):
        if getattr(options, name) is None:
            raise UserError(f"the following arguments are required: --{name}")
    certifier = options.certifier
    if options.timeout is not None:
        certifier = with_timeout(certifier, options.timeout)
    cell = make_cell(
        model=options.model,
        dataset=options.dataset,
        certifier=certifier,
        budget=options.budget,
        defence=options.defence,
        recipe=options.recipe,
        model_defence=options.model_defence,
        examples=options.examples,
        seed=options.seed,
    )
    return _one(options, cell)


def _verify(options: argparse.Namespace) -> int:
    """Prints unsat, sat with a counterexample, or timeout. All three are results: the exit code is 0."""
    from robustbench_jax.bench.verify import as_json, as_text, verify_files

    for name in ("dataset", "certifier", "budget", "defence", "recipe", "model_defence", "examples", "out"):
        if getattr(options, name):
            raise UserError(f"--vnnlib says what is asked; leave out --{name.replace('_', '-')}")
    if options.model is None:
        raise UserError("the following arguments are required: --model")
    verdict, x = verify_files(options.vnnlib, options.model, options.timeout, seed=options.seed)
    print(as_json(verdict, x) if options.json else as_text(verdict, x))
    return 0


def _one(options: argparse.Namespace, cell) -> int:
    """Runs one cell, keeps its record where --out says, and prints it. 1 where the record contradicts itself."""
    from robustbench_jax.bench import console, panels, records, runner
    from robustbench_jax.bench.collisions import collisions
    from robustbench_jax.bench.workshop import Workshop

    out = runner.require_out(options.out) if options.out else None
    with console.progress() as bars:
        workshop = Workshop(Path(out or "runs", "victims"), bars.training)
        data = workshop.dataset(cell.dataset, cell.split, cell.examples)
        model = workshop.victim(cell)
        pool = runner.training_images(cell, data, workshop.dataset)
        record, outcome = runner.run_cell(cell, model, data, pool=pool, report=bars.cells(1)(0, cell, len(data)))
    if out:
        runner.keep(out, record, outcome)
        wanted = getattr(options, "save_images", False)
        picture = panels.save(out, record.id, cell.label(), model, data) if wanted else None
        if picture:
            console.say(f"written: {picture}")
        console.say(f"written: {out / records.CELLS / record.id}.json")
    if options.json:
        print(record.to_json())
    else:
        console.show_record(record)
    found = collisions([record])
    for line in found:
        console.say(f"ALARM {line}")
    return 1 if found else 0


def _train(options: argparse.Namespace) -> int:
    from robustbench_jax.bench import console
    from robustbench_jax.bench.cells import require_seed
    from robustbench_jax.bench.workshop import train
    from robustbench_jax.data import load_dataset
    from robustbench_jax.ops.judge import predict
    from robustbench_jax.registry import canonical, parse

    require_seed(options.seed)
    defence, recipe = options.defence or "standard", options.recipe or "sgd"
    what = {
        "model": canonical("model", options.model),
        "defence": canonical("training", defence),
        "recipe": canonical("recipe", recipe),
        "dataset": canonical("dataset", options.dataset),
        "seed": options.seed,
    }
    parts = (parse(options.model).name, parse(options.dataset).name, parse(defence).name, f"seed{options.seed}")
    out = Path(options.out or Path("models", "-".join(parts)))
    data = load_dataset(options.dataset, "train")
    with console.progress() as bars:
        model = train(what | {"data": data.digest}, data, out, lambda progress: bars.training(options.model, progress))
    test = load_dataset(options.dataset, "test")
    accuracy = float((predict(model, test.x).argmax(-1) == test.y).mean())
    console.say(f"clean accuracy on {len(test)} test images: {accuracy:.3f}")
    console.say(f"written: {out}; use it as --model 'checkpoint(\"{out}\")'")
    return 0


def _leaderboard(options: argparse.Namespace) -> int:
    from robustbench_jax.bench import console, records, report

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


def _list(options: argparse.Namespace) -> int:
    from robustbench_jax.bench import console

    for what in [options.kind] if options.kind else [*CATALOGUE, "zoo"]:
        console.catalogue(what, CATALOGUE.get(what))
    return 0


def use_all_cores() -> None:
    """One XLA device for each core, so that the driver splits the batch over them: on CPU that is faster than threads
    inside each operation. Has no effect on accelerators, where XLA_FLAGS already say how many, or once JAX has begun.
    """
    import jax

    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        mine = getattr(os, "sched_getaffinity", None)
        with suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", len(mine(0)) if mine else os.cpu_count() or 1)


def _version() -> str:
    from importlib.metadata import version

    return f"robustbench-jax {version('robustbench-jax')}"


if __name__ == "__main__":
    sys.exit(main())
