"""IBP, CROWN-IBP, CROWN and domains of this package and of auto_LiRPA: seconds, memory, and whether bounds agree.

Networks and weights are those of reference_bounds.py. auto_LiRPA pins old versions of PyTorch, so each program runs in
a process of its own, theirs in another Python; they take turns at the same images. `compare` starts both:
    python scripts/benchmark.py bounds --peer-python other/python --peer-path auto_LiRPA [--cnn-a FILE --dataset CALL]

CPU seconds are given beside the others: on a machine that others use they drift less.

Domains are what branch and bound spends its time on. Both programs get so many copies of the first image's region, the
same CROWN bounds of hidden layers, and the same margin, and ascend the slopes of each copy for STEPS steps; no neuron
is split. Their first steps and rates differ, so the bounds that they end with are given, not compared.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import reference_bounds as cases

EPS = 2 / 255
AGREEMENT = 1e-4  # of 1 + the size of a bound
DOMAINS, STEPS = 256, 20


def compare(options) -> None:
    """Prints one table. Raises AssertionError where bounds differ by more than AGREEMENT."""
    print(f"Linf 2/255, median of {options.repeats} turns, after one that does not count")
    print(
        "| network | images | method | auto_LiRPA, s | ours, s | ratio | auto_LiRPA, CPU s | ours, CPU s | ratio "
        "| auto_LiRPA, GiB | ours, GiB | bounds differ by | first run, ours, s |"
    )
    print("| --- | ---: | --- |" + " ---: |" * 10)
    told = []
    for name, (layers, shape) in cases.networks(options).items():
        if options.only_network not in (None, name):
            continue
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "case.npz"
            x = images(name, shape, options)
            y = labels(layers, x)
            np.savez(file, layers=np.array(layers, object), x=x, y=y)
            programs = {"ours": Program("ours", file, sys.executable)}
            if options.peer_python:
                programs["peer"] = Program("peer", file, options.peer_python, options.peer_path)
            for count in options.batches:
                for method in cases.METHODS:
                    print(row(name, count, method, programs, options.repeats), flush=True)
            told.append(domains(name, programs, options.repeats))
            for program in programs.values():
                program.end()
    print(
        f"\n{DOMAINS} domains at once, {STEPS} steps\n"
        "| network | domains a CPU second, auto_LiRPA | ours | ratio | bound, auto_LiRPA | ours |"
    )
    print("\n".join(["| --- |" + " ---: |" * 5, *told]))


def domains(name: str, programs: dict, repeats: int) -> str:
    cells = []
    for who in ("peer", "ours"):
        turns = [programs[who].run("domains", DOMAINS) for _ in range(repeats + 1)] if who in programs else []
        cpu = statistics.median(turn["cpu"] for turn in turns[1:]) if turns else np.nan
        cells.append((DOMAINS / cpu, float(programs[who].bounds().mean()) if turns else np.nan))
    (peer, peer_bound), (own, bound) = cells
    return f"| {name} | {peer:.0f} | {own:.0f} | {own / peer:.1f} | {peer_bound:.4f} | {bound:.4f} |"


def row(name: str, count: int, method: str, programs: dict, repeats: int) -> str:
    turns = {who: [] for who in programs}
    for _ in range(repeats + 1):
        for who, program in programs.items():
            turns[who].append(program.run(method, count))
    found = {
        who: SimpleNamespace(
            seconds=statistics.median(turn["seconds"] for turn in all_[1:]),
            cpu=statistics.median(turn["cpu"] for turn in all_[1:]),
            peak=all_[-1]["peak"],
            first=all_[0]["seconds"],
            bounds=programs[who].bounds(),
        )
        for who, all_ in turns.items()
    }
    a, b = found.get("peer"), found["ours"]
    if a is None:
        own = f"{b.seconds:.3f} | | | {b.cpu:.3f} | | | {b.peak:.2f} | | {b.first:.1f} |"
        return f"| {name} | {count} | {method} | | {own}"
    # where intervals are better than lines ours are the better of both
    off = np.abs(a.bounds - b.bounds) / (1 + np.abs(a.bounds))
    assert np.all((off < AGREEMENT) | (b.bounds > a.bounds)), f"{name}, {method}: bounds differ by {off.max():.1e}"
    return (
        f"| {name} | {count} | {method} | {a.seconds:.3f} | {b.seconds:.3f} | {a.seconds / b.seconds:.1f} "
        f"| {a.cpu:.3f} | {b.cpu:.3f} | {a.cpu / b.cpu:.1f} | {a.peak:.2f} | {b.peak:.2f} | {off.max():.0e} "
        f"| {b.first:.1f} |"
    )


def images(name: str, shape: tuple, options) -> np.ndarray:
    """[N, C, H, W] in [0, 1]: the data set's for CNN-A, if one is named, else noise."""
    if name == "cnn_a" and options.dataset.startswith("npz"):
        from robustbench_jax.data import load_dataset
        from robustbench_jax.ops.images import as_unit

        return np.moveaxis(np.asarray(as_unit(load_dataset(options.dataset, limit=max(options.batches)).x)), -1, 1)
    return np.random.default_rng(1).uniform(0.25, 0.75, (max(options.batches), *shape)).astype(np.float32)


def labels(layers: list, x: np.ndarray) -> np.ndarray:
    import jax

    apply, params = cases.ours(layers)
    return np.asarray(jax.vmap(lambda x: apply(params, x))(np.moveaxis(x, 1, -1))).argmax(-1)


class Program:
    """A process that waits for orders, one a line: {"method", "count"}; it answers with seconds and its peak memory."""

    def __init__(self, who: str, file: Path, python: str, path: str | None = None):
        self.out = file.with_name(f"{who}.npy")
        environment = dict(os.environ) | ({"PYTHONPATH": path} if path else {})
        command = [python, "-W", "ignore", __file__, who, str(file), str(self.out)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(self, method: str, count: int) -> dict:
        self.process.stdin.write(json.dumps({"method": method, "count": count}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def bounds(self) -> np.ndarray:
        return np.load(self.out)

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def serve(who: str, file: str, out: str) -> None:
    case = np.load(file, allow_pickle=True)
    layers = [tuple(layer) for layer in case["layers"]]
    bound = {"ours": our_bounds, "peer": peer_bounds}[who](layers, case["x"], case["y"])
    for line in sys.stdin:
        order = json.loads(line)
        began, spent = time.perf_counter(), cpu_seconds()
        found = bound(order["method"], order["count"])
        answer = {"seconds": time.perf_counter() - began, "cpu": cpu_seconds() - spent}
        np.save(out, found)
        answer["peak"] = peak_memory()
        print(json.dumps(answer), flush=True)


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_memory() -> float:
    """GiB that this process has held at most; what getrusage says includes the process that started it."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 2**20


def our_bounds(layers: list, x: np.ndarray, y: np.ndarray):
    """(method, count) -> [count, 9], in slices as a certifier makes them."""
    import jax

    from robustbench_jax.certify import bounding
    from robustbench_jax.certify.bounded import margin_rows, regions_of, slices
    from robustbench_jax.certify.reduction import Reduction
    from robustbench_jax.certify.search import ROOT_RATE, Problems, Search
    from robustbench_jax.ops.bounds.reduced import Weights
    from robustbench_jax.ops.runtime import Runtime, keep_memory
    from robustbench_jax.registry import build
    from robustbench_jax.types import Classifier

    keep_memory()
    model, runtime, budget = Classifier(*cases.ours(layers)), Runtime(), build("budget", f"linf({EPS!r})")
    x, every = np.ascontiguousarray(np.moveaxis(x, 1, -1)), margin_rows(y, 10)

    def split(count: int) -> np.ndarray:
        regions, rows = regions_of(x[:1], budget), every[:1]
        if "search" not in first:
            margins, known = bounding.plain(model, regions, rows)
            one = jax.tree.map(lambda leaf: leaf[0], (regions, known))
            asked = rows[:, [int(np.asarray(margins)[0].argmin())]]
            never = Problems(asked, np.zeros((1, 1), np.float32), np.array([np.inf]))
            first["search"] = Search(model, Reduction(model, *one), never, STEPS)
        search = first["search"]
        neurons = len(search.net.low)
        slopes = np.tile(np.asarray(search.net.high > -search.net.low, np.float32), (count, 1))
        start = Weights(slopes, np.zeros_like(slopes), np.ones((count, 1), np.float32))
        nothing = np.full(count, -np.inf, np.float32), np.zeros(count, np.int32), np.zeros((count, neurons), np.int8)
        return search.bounded(*nothing, start, STEPS, ROOT_RATE)[0]

    first: dict = {}

    def bound(method: str, count: int) -> np.ndarray:
        if method == "domains":
            return split(count)
        certifier, parts = build("certifier", method), []
        with jax.default_matmul_precision("highest"):
            for part in slices(count, runtime):
                rows = np.resize(part, runtime.fit(len(part)))
                found = np.asarray(certifier.margins(model, regions_of(x[rows], budget), every[rows]))
                parts.append(found[: len(part)])
        return np.concatenate(parts)

    return bound


def peer_bounds(layers: list, x: np.ndarray, y: np.ndarray):
    """(method, count) -> [count, 9], all images at once, with the program's own defaults."""
    import torch
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    torch.set_num_threads(os.cpu_count())
    x, y = torch.tensor(x), torch.tensor(y)
    rows = torch.eye(10)[y][:, None] - torch.eye(10)[None]
    rows = torch.stack([r[[j for j in range(10) if j != k]] for r, k in zip(rows, y.tolist(), strict=True)])
    model = BoundedModule(cases.theirs(layers), torch.empty_like(x[:1]))

    def split(count: int) -> np.ndarray:
        model.set_bound_opts({"optimize_bound_args": {"iteration": STEPS, "early_stop_patience": STEPS}})
        part = x[:1].expand(count, *x.shape[1:])
        low, high = (part - EPS).clamp(0, 1), (part + EPS).clamp(0, 1)
        if "hidden" not in first:
            one = BoundedTensor(x[:1], PerturbationLpNorm(norm=np.inf, eps=EPS, x_L=low[:1], x_U=high[:1]))
            margins, _ = model.compute_bounds(x=(one,), C=rows[:1], method="CROWN", bound_upper=False)
            first["row"] = rows[:1, [int(margins[0].argmin())]]
            first["hidden"] = {
                layer.inputs[0].name: [side.detach() for side in (layer.inputs[0].lower, layer.inputs[0].upper)]
                for layer in model.perturbed_optimizable_activations
            }
        hidden = {
            layer: [side.expand(count, *side.shape[1:]).contiguous() for side in sides]
            for layer, sides in first["hidden"].items()
        }
        within = BoundedTensor(part, PerturbationLpNorm(norm=np.inf, eps=EPS, x_L=low, x_U=high))
        asked = first["row"].expand(count, -1, -1).contiguous()
        found, _ = model.compute_bounds(
            x=(within,), C=asked, method="CROWN-Optimized", bound_upper=False, interm_bounds=hidden
        )
        return found.detach().numpy()

    first: dict = {}

    def bound(method: str, count: int) -> np.ndarray:
        if method == "domains":
            return split(count)
        part = x[:count]
        low, high = (part - EPS).clamp(0, 1), (part + EPS).clamp(0, 1)
        within = BoundedTensor(part, PerturbationLpNorm(norm=np.inf, eps=EPS, x_L=low, x_U=high))
        with torch.no_grad():
            called = cases.PEER_METHODS[method]
            found, _ = model.compute_bounds(x=(within,), C=rows[:count], method=called, bound_upper=False)
        return found.numpy()

    return bound


if __name__ == "__main__":
    serve(*sys.argv[1:])
