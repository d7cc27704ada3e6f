"""What the command line takes: verbs, options, and errors that name the nearest right word."""

import argparse
from collections.abc import Callable
from importlib.metadata import version

from robustbench_jax.cli import keys
from robustbench_jax.cli.audit import audit
from robustbench_jax.cli.cells import attack, certify
from robustbench_jax.cli.evaluate import evaluate
from robustbench_jax.cli.log import log_report, log_verify
from robustbench_jax.cli.manifest import manifest
from robustbench_jax.cli.monitor import monitor
from robustbench_jax.cli.poison import poison, privacy, watermark
from robustbench_jax.cli.reports import CATALOGUE, catalogue, cite, compare, leaderboard
from robustbench_jax.cli.seal import seal, sign
from robustbench_jax.cli.serve import serve
from robustbench_jax.cli.steal import steal
from robustbench_jax.cli.sweep import sweep
from robustbench_jax.cli.train import train
from robustbench_jax.registry import nearest
from robustbench_jax.types import UserError


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


def make_parser() -> argparse.ArgumentParser:
    """One parser with a sub-parser for each verb; `run` of what it parses is the verb's function."""
    parser = _Parser(prog="robustbench-jax", description="Benchmarks the security of machine-learning models.")
    parser.add_argument("--version", action="version", version=f"robustbench-jax {version('robustbench-jax')}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)

    def verb(name: str, run: Callable, options: Callable, help: str) -> None:
        _add_verb(verbs, name, run, options, help)

    def group(name: str, help: str) -> argparse._SubParsersAction:
        made = verbs.add_parser(name, help=help, description=help, allow_abbrev=False)
        return made.add_subparsers(dest=f"{name} verb", required=True, metavar="VERB", parser_class=_Parser)

    verb("sweep", sweep, _sweep, "Run every cell of a sweep file that has no result yet, and write the leaderboard.")
    verb("attack", attack, _attack, "Attack one model.")
    verb("certify", certify, _certify, "Certify one model: prove of images that nothing in the budget changes them.")
    verb("poison", poison, _poison, "Poison training data, train on it, defend, and judge: poisoning and backdoors.")
    verb("privacy", privacy, _privacy, "Attack the privacy of data: membership, attributes, audits, inversion.")
    verb("monitor", monitor, _monitor, "Watch requests to a model: those of an attack, or of an audit log.")
    verb("steal", steal, _steal, "Steal a model through its answers, and compare the copy with it.")
    verb("watermark", watermark, _watermark, "Mark a model, let a thief at it, and see whether its owner can tell it.")
    verb("evaluate", evaluate, _evaluate, "Attack one model with and without knowledge of its defence.")
    verb("audit", audit, _audit, "Check one model against a security policy: a page about it, and 1 where it fails.")
    verb("train", train, _train, "Train a model; a run that was killed goes on from its last checkpoint.")
    verb("manifest", manifest, _manifest, "Sign what a dataset is, or verify that it still is that.")
    verb("seal", seal, _seal, "Encrypt a trained model into a file, or take it out again.")
    verb("sign", sign, _sign, "Sign a model directory, or verify that it is signed.")
    verb("serve", serve, _serve, "Serve a trained model over HTTP, as a policy says, until SIGTERM.")
    log = group("log", "Verify the audit log of a served model, or report an incident.")
    _add_verb(log, "verify", log_verify, _log, "Find any edit, deletion, reordering or truncation of a log.")
    _add_verb(log, "report", log_report, _log_report, "Say who asked what, when, how often, and what was found.")
    key = group("keys", "Make, list, disable and rotate the API keys of a served model.")
    _add_verb(key, "new", keys.new, _keys_new, "Make an account; its key is shown once.")
    _add_verb(key, "list", keys.listed, _keys_list, "List the accounts.")
    _add_verb(key, "disable", keys.disable, _keys, "Let a key count no more.")
    _add_verb(key, "rotate", keys.rotate, _keys, "Give an account a new key; the old one counts no more.")
    verb("leaderboard", leaderboard, _leaderboard, "Write the leaderboard of a results directory.")
    verb("compare", compare, _compare, "Compare two models of a results directory, image by image.")
    verb("cite", cite, _cite, "Print the BibTeX entries of everything that results used, or that call strings name.")
    verb("list", catalogue, _list, "List what there is, with arguments and defaults.")
    return parser


def _add_verb(verbs: argparse._SubParsersAction, name: str, run: Callable, options: Callable, help: str) -> None:
    made = verbs.add_parser(name, help=help, description=help, allow_abbrev=False)
    made.set_defaults(run=run)
    made.add_argument("--debug", action="store_true", help="show tracebacks")
    options(made)


def _sweep(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG.toml")
    parser.add_argument("--out", metavar="DIR", help="results directory (default: runs/NAME)")
    parser.add_argument("--set", metavar="K=V", action="append", default=[], help="override a key of the file")
    parser.add_argument("--dry-run", action="store_true", help="print the cells and stop")
    parser.add_argument("--save-images", action="store_true", help="draw what each attack did: DIR/images/CELL.png")


def _attack(parser: argparse.ArgumentParser) -> None:
    _add_victim(parser, required=True)
    parser.add_argument("--attack", required=True, metavar="A", help="e.g. pgd(steps=40)")
    _add_run(parser, "keep the record and the adversarial examples there")
    parser.add_argument("--save-images", action="store_true", help="draw what it did: DIR/images/CELL.png; needs --out")


def _certify(parser: argparse.ArgumentParser) -> None:
    _add_victim(parser, required=False)
    parser.add_argument("--certifier", metavar="C", help="what there is: robustbench-jax list certifiers")
    _add_run(parser, "keep the record and the counterexamples there")
    parser.add_argument("--timeout", type=float, metavar="S", help="seconds for each image, where a certifier has it")
    parser.add_argument("--vnnlib", metavar="SPEC", help='verify this specification instead; model: onnx("m.onnx")')


def _poison(parser: argparse.ArgumentParser) -> None:
    _add_victim(parser, required=True, budget="e.g. rate(0.05), count(25)", model="an architecture, e.g. cnn")
    parser.add_argument("--attack", required=True, metavar="A", help="e.g. badnets, gradient_matching")
    parser.add_argument("--data-defence", metavar="T", default="", help="e.g. spectral_signatures")
    parser.add_argument("--inspection", metavar="I", default="", help="e.g. neural_cleanse")
    _add_run(parser, "keep the record, the poison set and the trained models there")
    parser.add_argument(
        "--save-images", action="store_true", help="draw triggered images: DIR/images/CELL.png; needs --out"
    )
    parser.add_argument("--export", metavar="F", help="write the poisoned data as a file for npz(F); trains nothing")


def _privacy(parser: argparse.ArgumentParser) -> None:
    _add_victim(parser, required=True, budget="e.g. shadows(16), complete(200)", model="an architecture, e.g. cnn")
    parser.add_argument("--attack", required=True, metavar="A", help="e.g. lira, map_estimate, one_run_audit")
    _add_run(parser, "keep the record, the scores and the trained models there")
    parser.add_argument("--save-images", action="store_true", help="draw it: DIR/images/CELL.png; needs --out")


def _monitor(parser: argparse.ArgumentParser) -> None:
    for name, what in (("model", "zoo name or architecture"), ("dataset", "whose training images are honest requests")):
        parser.add_argument(f"--{name}", required=True, metavar=name[0].upper(), help=what)
    parser.add_argument(
        "--monitor", required=True, action="append", metavar="W", help="e.g. blacklight, prada(window=50)"
    )
    parser.add_argument(
        "--log", metavar="F", help="replay this audit log (any number of monitors); 1 if there are alarms"
    )
    parser.add_argument("--attack", metavar="A", help="e.g. honest, evading(square, linf(0.1)), jacobian, natural")
    parser.add_argument("--budget", metavar="B", help="e.g. traffic(streams=20, queries=300)")
    _add_training(parser)
    parser.add_argument("--model-defence", metavar="T", default="", help="e.g. jpeg(75)")
    _add_run(parser, "keep the record and what was noticed when there")


def _steal(parser: argparse.ArgumentParser) -> None:
    _add_victim(parser, required=True, budget="e.g. queries(1000)")
    parser.add_argument("--attack", required=True, metavar="A", help="e.g. knockoff, jacobian_augmentation")
    _add_run(parser, "keep the record and the clone's arrays there")
    parser.add_argument("--save-clone", metavar="DIR", help="keep the stolen copy as a model directory")


def _watermark(parser: argparse.ArgumentParser) -> None:
    _add_victim(parser, required=True, budget="the thief's, e.g. images(2000)", model="an architecture, e.g. cnn")
    parser.add_argument("--attack", required=True, metavar="A", help="e.g. no_removal, fine_tune_all, extract, forge")
    _add_run(parser, "keep the record, the evidence and the trained models there")


def _evaluate(parser: argparse.ArgumentParser) -> None:
    _add_victim(parser, required=True)
    parser.add_argument("--attack", metavar="A", default="pgd(steps=40)", help="default: pgd(steps=40)")
    _add_run(parser, "keep the records and the adversarial examples there")
    parser.add_argument("--checks", action="store_true", help="look for signs of masked gradients as well")


def _audit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="M", help="a trained model, or an architecture")
    parser.add_argument("--dataset", required=True, metavar="D")
    parser.add_argument("--policy", required=True, metavar="F", help="e.g. configs/audit.toml")
    _add_training(parser)
    parser.add_argument("--model-defence", metavar="T", default="", help="e.g. jpeg(75)")
    parser.add_argument("--out", metavar="DIR", help="page, plan and records (default: runs/audit)")
    parser.add_argument("--against", metavar="F", help="the last audit.json (default: that of --out)")
    parser.add_argument("--dry-run", action="store_true", help="print the checks and stop")
    parser.add_argument("--json", action="store_true", help="print the audit as JSON on stdout")


def _train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True, metavar="D")
    parser.add_argument("--model", required=True, metavar="M", help="an architecture, e.g. cnn")
    _add_training(parser)
    parser.add_argument("--out", metavar="DIR", help="default: models/MODEL-DATASET-DEFENCE-SEED")
    parser.add_argument("--seed", type=int, default=0, metavar="S")


def _manifest(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", metavar="D")
    parser.add_argument("--new-key", metavar="F", help="make a key pair: F and F.pub; password: see the README")
    parser.add_argument("--key", metavar="F", help="sign with this private key")
    parser.add_argument("--out", metavar="M", help="write the signed manifest there")
    parser.add_argument("--verify", metavar="M", help="compare the dataset with this manifest")
    parser.add_argument("--public", metavar="F", help="the public key that must have signed it")
    parser.add_argument("--against", metavar="D", help="look for drift from this trusted dataset, split by split")


def _seal(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="M", help='zoo name, checkpoint("dir"); password or key: see the README')
    parser.add_argument("--unseal", metavar="F", help="take the model out of this file")
    parser.add_argument(
        "--out", required=True, metavar="F", help="the sealed file, or the directory for what is unsealed"
    )
    parser.add_argument("--sign", metavar="K", help="sign it with this private key before it is sealed")


def _sign(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", metavar="DIR", help="what train wrote")
    parser.add_argument("--key", metavar="K", help="sign with this private key, made by manifest --new-key K")
    parser.add_argument("--public", metavar="K", help="the public key that must have signed it")


def _serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, metavar="M", help='zoo name, checkpoint("dir"), onnx("m.onnx"), ...')
    parser.add_argument("--policy", required=True, metavar="P", help="what it answers to whom: see configs/policy.toml")
    parser.add_argument("--dataset", metavar="D", help="training images, for model defences and monitors")
    parser.add_argument("--model-defence", metavar="T", default="", help="e.g. jpeg(75)")
    parser.add_argument("--host", default="127.0.0.1", metavar="H", help="default: 127.0.0.1, this machine alone")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="default: 8000; 0 for any that is free")
    parser.add_argument("--seed", type=int, default=0, metavar="S")


def _log(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--public-key", metavar="K", help="who must have signed it: F.pub of manifest --new-key F")
    parser.add_argument("--head", metavar="H", help="a head that verify printed earlier: finds a cut-off end")
    parser.add_argument("--json", action="store_true", help="print what comes out as JSON")


def _log_report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--public-key", metavar="K", help="who must have signed it")
    parser.add_argument("--account", metavar="A", help="of this account alone")
    parser.add_argument("--since", metavar="T", help="e.g. 2026-11-27 or 2026-11-27T03:28:00, UTC")
    parser.add_argument("--until", metavar="T", help="before this time")
    parser.add_argument("--kind", metavar="K", action="append", help="of this kind, e.g. alert; may be repeated")
    parser.add_argument("--json", action="store_true", help="print all of it as JSON (default: Markdown)")


def _keys(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--accounts", required=True, metavar="FILE")
    parser.add_argument("--name", required=True, metavar="N")


def _keys_new(parser: argparse.ArgumentParser) -> None:
    _keys(parser)
    parser.add_argument("--scopes", nargs="+", metavar="S", help="predict, metrics, admin (default: predict)")
    parser.add_argument("--rate", type=float, metavar="R", help="requests a second (default: 10)")
    parser.add_argument("--burst", type=int, metavar="B", help="requests at once (default: 20)")
    parser.add_argument("--budget", type=int, metavar="Q", help="queries in all (default: no limit)")
    parser.add_argument("--expires", metavar="T", help="e.g. 2027-01-31T12:00:00Z (default: never)")


def _keys_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--accounts", required=True, metavar="FILE")
    parser.add_argument("--json", action="store_true", help="print one JSON object an account")


def _leaderboard(parser: argparse.ArgumentParser) -> None:
    formats = ("md", "csv", "tex", "html")
    parser.add_argument("results", metavar="RESULTS_DIR")
    parser.add_argument("--out", metavar="DIR", help="default: RESULTS_DIR")
    parser.add_argument("--format", nargs="+", choices=formats, default=list(formats))
    parser.add_argument("--baseline", metavar="MODEL", help="corruptions: the model that mCE is measured against")


def _compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help="a model as tables show it, or call strings joined by ' + '")
    parser.add_argument("b", metavar="B", help="another one")
    parser.add_argument("results", metavar="RESULTS_DIR")
    parser.add_argument("--json", action="store_true", help="print the comparisons as JSON")


def _cite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "things", nargs="+", metavar="RESULTS_DIR|CALL", help="e.g. runs/quickstart, pgd(steps=40), trades"
    )
    parser.add_argument("--keys", action="store_true", help="print their keys alone")


def _list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", nargs="?", choices=[*CATALOGUE, "zoo"])


def _add_victim(
    parser: argparse.ArgumentParser,
    *,
    required: bool,
    budget: str = "e.g. linf(8/255)",
    model: str = 'zoo name, checkpoint("dir") or architecture',
) -> None:
    for name, what in (("model", model), ("dataset", "e.g. fashion_mnist_mini"), ("budget", budget)):
        parser.add_argument(f"--{name}", required=required, metavar=name[0].upper(), help=what)
    _add_training(parser)
    parser.add_argument("--model-defence", metavar="T", default="", help="e.g. jpeg(75)")


def _add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--defence", metavar="T", default="", help="e.g. adversarial_training(pgd(steps=7), linf(0.1))")
    parser.add_argument("--recipe", metavar="R", default="", help="e.g. sgd(epochs=20, learning_rate=0.05)")


def _add_run(parser: argparse.ArgumentParser, out: str) -> None:
    parser.add_argument("--examples", type=int, metavar="N", help="the first N test images (default: all)")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--out", metavar="DIR", help=out)
    parser.add_argument("--json", action="store_true", help="print what comes out as JSON")
