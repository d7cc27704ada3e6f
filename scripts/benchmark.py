"""Measures this package against a peer, on the same weights, images and starting points, in one run.

    pip install -e ".[peers]"
    python scripts/benchmark.py drive [--examples 500] [--steps 100] [--repeats 3]
    python scripts/benchmark.py autoattack --peers [--examples 500] [--only PART] [--model CALL] [--dataset CALL]
                                                [--budget CALL]
    python scripts/benchmark.py bounds --peer-python PYTHON --peer-path AUTO_LIRPA [--cnn-a FILE --dataset CALL]
    python scripts/benchmark.py smoothing [--images 16] [--samples 10000]
    python scripts/benchmark.py keeping [--repeats 3]
    python scripts/benchmark.py poisoning [--repeats 3]
    python scripts/benchmark.py privacy [--repeats 3]
    python scripts/benchmark.py serving [--repeats 3]
    python scripts/benchmark.py training --peers [--updates 10] [--repeats 3] [--only-defence NAME]

drive: PGD through the driver against a plain PGD in PyTorch eager, on the shipped model that survives most of it and
on the one that it breaks. Repeats alternate between the two programs and medians are compared, so that a machine whose
speed drifts does not favour either. What one compilation costs is given apart.

autoattack: the standard version against the reference implementation, component by component, on the same two models
or on others. Ours runs twice: what the first run takes longer is compiling. An architecture instead of a model
(preact_resnet18) has random weights, and its own predictions count as the labels.

bounds: ibp, crown_ibp and crown against auto_LiRPA (benchmark_bounds.py). smoothing: against a plain loop in PyTorch
(benchmark_smoothing.py). keeping: the audit log, sealed models (benchmark_keeping.py). poisoning: many small models
(benchmark_poisoning.py). privacy: clipped gradients, shadow models (benchmark_privacy.py). serving: a served
model under load (benchmark_serving.py). training: see benchmark_training.py.
"""

import argparse
import platform
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version

import benchmark_bounds
import benchmark_keeping
import benchmark_poisoning
import benchmark_privacy
import benchmark_serving
import benchmark_smoothing
import benchmark_training
import jax
import numpy as np
import reference
from reference import Part, Verdict

from robustbench_jax.bench.cells import kind_of_model
from robustbench_jax.bench.clock import Clock
from robustbench_jax.bench.workshop import load_model
from robustbench_jax.cli import use_all_cores
from robustbench_jax.data import load_dataset
from robustbench_jax.keys import stream
from robustbench_jax.models import build_model
from robustbench_jax.ops import bucket
from robustbench_jax.ops.drive import drive
from robustbench_jax.ops.judge import classify
from robustbench_jax.registry import build

MODELS = {"most images survive": "fashion_mnist/linf/pgd_at", "most images break": "fashion_mnist/clean/standard"}
EPS, STEP = 0.1, 0.01
KEY = 0
COLUMNS = ("attacked", "broken", "forwards", "gradients", "seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(PARTS))
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", action="store_true", help="run the reference as well")
    parser.add_argument("--only", choices=list(reference.PARTS.values()), help="one component, alone")
    parser.add_argument("--model", action="append", help="a model of this package, more than once for several")
    parser.add_argument("--dataset", default="fashion_mnist_mini")
    parser.add_argument("--budget", action="append", help="more than once for several")
    parser.add_argument("--peer-python", help="bounds: the Python that has PyTorch for auto_LiRPA")
    parser.add_argument("--peer-path", help="bounds: the folder that auto_LiRPA lies in")
    parser.add_argument("--cnn-a", help="bounds: a PyTorch file with the weights of a cnn_a for CIFAR-10")
    parser.add_argument("--only-network", help="bounds: dense, residual or cnn_a")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 20, 200], help="bounds: images at once")
    parser.add_argument("--images", type=int, default=16, help="smoothing")
    parser.add_argument("--samples", type=int, default=10_000, help="smoothing: of each image")
    parser.add_argument("--updates", type=int, default=10, help="training: steps of one")
    parser.add_argument("--only-defence", action="append", help="a training defence, more than once for several")
    options = parser.parse_args()
    use_all_cores()
    print(
        f"{platform.processor() or platform.machine()}, {len(jax.local_devices())} x {jax.devices()[0].device_kind}; "
        f"Python {platform.python_version()}, jax {version('jax')}, torch {version('torch')}; "
        f"{options.examples} images at most"
    )
    PARTS[options.what](options)


def compare_drive(options: argparse.Namespace) -> None:
    print(f"PGD-{options.steps}, Linf {EPS}, median of {options.repeats}")
    print(
        "| model | PyTorch eager, s | robustbench_jax, s | PyTorch / ours | compiling, s | robust, PyTorch "
        "| robust, ours | same verdict |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    )
    for what, name in MODELS.items():
        print(row(what, name, options), flush=True)


def compare_autoattack(options: argparse.Namespace) -> None:
    data = load_dataset(options.dataset, limit=options.examples)
    for name in options.model or MODELS.values():
        for text in options.budget or [f"linf({EPS})"]:
            model, budget = made(name, data), build("budget", text)
            if kind_of_model(name) == "model":
                data = replace(data, y=classify(model, data.x).astype(np.int32))
            print(f"\n{name}, {text}, {len(data)} images of {data.name}")
            first = autoattack(model, budget, data, options.only)
            ours = autoattack(model, budget, data, options.only)
            memory = peak_memory()
            print(f"compiling {total(first) - total(ours):.1f} s; memory at most {memory:.2f} GiB")
            if options.peers:
                theirs = reference.autoattack(model, data, budget.registered[1], float(budget.eps), options.only)
                print(f"memory with the reference at most {peak_memory():.2f} GiB")
                print(table(ours, theirs), flush=True)
            else:
                print(f"robust {ours.robust.mean():.3f}\n{parts_table(ours)}", flush=True)


def made(name: str, data):
    """The trained model, or the architecture with random weights for these images."""
    if kind_of_model(name) != "model":
        return load_model(name)
    return build_model(name, data.x.shape[1:], len(data.classes), jax.random.key(KEY))


def autoattack(model, budget, data, only: str | None = None) -> Verdict:
    attack = build("attack", "autoattack")
    if only:
        attack = next(stage for stage in attack.stages(budget) if stage.called == only)
    right = classify(model, data.x) == data.y
    ids = np.flatnonzero(right)
    found = drive(jax.random.key(KEY), attack, model, budget, data.x[ids], data.y[ids], ids=ids)
    robust = right.copy()
    robust[ids] = ~found.success
    parts = {only or stage.attack: Part(*(getattr(stage, column) for column in COLUMNS)) for stage in found.stages}
    return Verdict(robust, parts)


def table(ours: Verdict, theirs: Verdict) -> str:
    lines = [
        "| component | images, reference | broken | forwards | gradients | s | images, ours | broken | forwards "
        "| gradients | s | reference / ours |\n|" + " --- |" + " ---: |" * 11
    ]
    for name in theirs.parts:
        a, b = theirs.parts[name], ours.parts.get(name, Part())
        ratio = f"{a.seconds / b.seconds:.1f}" if b.seconds else ""
        lines.append(f"| {name} | {columns(a)} | {columns(b)} | {ratio} |")
    lines.append(f"| all | {columns(whole(theirs))} | {columns(whole(ours))} | {total(theirs) / total(ours):.1f} |")
    lines.append(
        f"robust accuracy {theirs.robust.mean():.4f} by the reference, {ours.robust.mean():.4f} by ours; the same "
        f"verdict on {np.mean(theirs.robust == ours.robust):.1%}"
    )
    return "\n".join(lines)


def parts_table(found: Verdict) -> str:
    lines = ["| component | images | broken | forwards | gradients | s |\n|" + " --- |" + " ---: |" * 5]
    lines += [f"| {name} | {columns(part)} |" for name, part in found.parts.items()]
    return "\n".join([*lines, f"| all | {columns(whole(found))} |"])


def columns(part: Part) -> str:
    counts = (part.attacked, part.broken, part.forwards, part.gradients)
    return " | ".join([*(f"{count:,}" for count in counts), f"{part.seconds:.1f}"])


def whole(found: Verdict) -> Part:
    parts = list(found.parts.values())
    sums = {column: sum(getattr(part, column) for part in parts) for column in COLUMNS[1:]}
    return Part(attacked=max(part.attacked for part in parts), **sums)


def total(found: Verdict) -> float:
    return sum(part.seconds for part in found.parts.values())


def peak_memory() -> float:
    """GiB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def row(what: str, name: str, options: argparse.Namespace) -> str:
    model, data = load_model(name), load_dataset("fashion_mnist_mini", limit=options.examples)
    attack = build("attack", f"pgd(steps={options.steps}, step_size={STEP / EPS})")
    budget = build("budget", f"linf({EPS})")
    key = jax.random.key(KEY)
    ids = np.arange(len(data))
    starts = np.asarray(
        bucket.start(stream(key, "stage 0"), attack, model, budget, data.x, data.y, ids, 0 * ids)[1].x_adv
    )

    def ours() -> np.ndarray:
        return ~drive(key, attack, model, budget, data.x, data.y).success  # wrong at the start counts as broken

    with Clock() as first:
        ours()
    seconds, robust = alternate(
        {"torch": reference.torch_pgd(model, data, starts, options.steps, EPS, STEP), "ours": ours}, options.repeats
    )
    same = np.mean(robust["torch"] == robust["ours"])
    return (
        f"| {what}: {name} | {seconds['torch']:.2f} | {seconds['ours']:.2f} | {seconds['torch'] / seconds['ours']:.1f} "
        f"| {first.compile_s:.1f} | {robust['torch'].mean():.3f} | {robust['ours'].mean():.3f} | {same:.1%} |"
    )


def alternate(programs: dict[str, Callable], repeats: int) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Median seconds and last result of each program; they take turns, after one turn that does not count."""
    times, results = {name: [] for name in programs}, {}
    for repeat in range(repeats + 1):
        for name, program in programs.items():
            began = time.perf_counter()
            results[name] = program()
            if repeat:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}, results


PARTS = {
    "drive": compare_drive,
    "autoattack": compare_autoattack,
    "bounds": benchmark_bounds.compare,
    "keeping": partial(benchmark_keeping.compare, alternate=alternate),
    "poisoning": benchmark_poisoning.compare,
    "privacy": benchmark_privacy.compare,
    "serving": benchmark_serving.compare,
    "smoothing": partial(benchmark_smoothing.compare, alternate=alternate),
    "training": benchmark_training.compare,
}

if __name__ == "__main__":
    main()
