"""Measures this package against a peer, on the same weights, images and starting points, in one run.

    pip install -e ".[peers]"
    python scripts/benchmark.py drive [--examples 500] [--steps 100] [--repeats 3]

drive: PGD through the driver against a plain PGD in PyTorch eager, on the shipped model that survives most of it and
on the one that it breaks. Repeats alternate between the two programs and medians are compared, so that a machine whose
speed drifts does not favour either. What one compilation costs is given apart.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version

import jax
import numpy as np

from robustbench_jax.bench.clock import Clock
from robustbench_jax.bench.workshop import load_model
from robustbench_jax.cli import use_all_cores
from robustbench_jax.data import load_dataset
from robustbench_jax.keys import stream
from robustbench_jax.ops import bucket
from robustbench_jax.ops.drive import drive
from robustbench_jax.ops.images import as_unit
from robustbench_jax.registry import build

MODELS = {"most images survive": "fashion_mnist/linf/pgd_at", "most images break": "fashion_mnist/clean/standard"}
EPS, STEP = 0.1, 0.01
KEY = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["drive"])
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    use_all_cores()
    print(
        f"{platform.processor() or platform.machine()}, {len(jax.local_devices())} x {jax.devices()[0].device_kind}; "
        f"Python {platform.python_version()}, jax {version('jax')}, torch {version('torch')}; "
        f"PGD-{options.steps}, Linf {EPS}, {options.examples} images, median of {options.repeats}"
    )
    print(
        "| model | PyTorch eager, s | robustbench_jax, s | PyTorch / ours | compiling, s | robust, PyTorch "
        "| robust, ours | same verdict |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    )
    for what, name in MODELS.items():
        print(row(what, name, options))


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
    seconds, robust = alternate({"torch": torch_pgd(model, data, starts, options.steps), "ours": ours}, options.repeats)
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


def torch_pgd(model, data, starts: np.ndarray, steps: int) -> Callable[[], np.ndarray]:
    """The same attack as anybody would write it in PyTorch: one batch, a gradient of the input alone, no early end.

    An image counts as robust if the model is right at the end of the path.
    """
    import torch

    forward = torch_cnn(model)
    x0, start = (torch.tensor(np.moveaxis(a, -1, 1).copy()) for a in (as_unit(data.x), starts))
    y = torch.tensor(data.y.astype(np.int64))

    def run() -> np.ndarray:
        x = start.clone()
        for _ in range(steps):
            x.requires_grad_(True)
            loss = torch.nn.functional.cross_entropy(forward(x), y, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, x)
            x = x.detach() + STEP * gradient.sign()
            x = torch.clamp(torch.minimum(torch.maximum(x, x0 - EPS), x0 + EPS), 0, 1)
        with torch.no_grad():
            return (forward(x).argmax(1) == y).numpy()

    return run


def torch_cnn(model) -> Callable:
    """The cnn architecture of this package in PyTorch, with the model's weights."""
    import torch

    weights = {name: np.array(value) for name, value in model.params.items()}
    convolutions = sorted({int(name.split("/")[1]) for name in weights if name.startswith("convolutions/")})
    strides = (1, 2, 2)
    filters = [
        (
            torch.tensor(weights[f"convolutions/{i}/kernel"].transpose(3, 2, 0, 1).copy()),
            torch.tensor(weights[f"convolutions/{i}/bias"]),
            strides[i],
        )
        for i in convolutions
    ]
    channels = filters[-1][0].shape[0]
    last = weights["dense/0/kernel"].reshape(-1, channels, weights["dense/0/kernel"].shape[-1])
    first = torch.tensor(last.transpose(1, 0, 2).reshape(-1, last.shape[-1]).copy())  # rows in channels-first order
    head = [torch.tensor(weights[name]) for name in ("dense/0/bias", "head/kernel", "head/bias")]

    def forward(x):
        for kernel, bias, stride in filters:
            x = torch.relu(torch.nn.functional.conv2d(x, kernel, bias, stride=stride, padding=1))
        return torch.relu(x.flatten(1) @ first + head[0]) @ head[1] + head[2]

    return forward


if __name__ == "__main__":
    main()
