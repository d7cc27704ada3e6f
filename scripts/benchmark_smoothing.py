"""Samples a second of randomised smoothing: ours, and a plain loop in PyTorch, on the same weights, taking turns.

The loop is what Cohen et al.'s algorithm needs and no more: for one image after another, batches of copies, noise,
forward, argmax, counts.
"""

import jax
import numpy as np
import reference
import torch

from robustbench_jax.bench.clock import Clock
from robustbench_jax.bench.workshop import load_model
from robustbench_jax.data import load_dataset
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import build

MODEL, SIGMA, RADIUS = "fashion_mnist/gaussian/noise_025", 0.25, 0.25
BATCH = 1000  # copies in one forward pass of the loop


def compare(options, alternate) -> None:
    """Prints one table; alternate: as in benchmark.py."""
    model, data = load_model(MODEL), load_dataset("fashion_mnist_mini", limit=options.images)
    certifier = build("certifier", f"randomized_smoothing(sigma={SIGMA}, n={options.samples})")
    budget, ids, key = build("budget", f"l2({RADIUS})"), np.arange(len(data)), jax.random.key(0)

    def ours() -> tuple[np.ndarray, np.ndarray]:
        found = certifier.certify(key, model, data.x, data.y, budget, ids=ids, runtime=Runtime())
        return found.prediction, found.evidence["successes"] / found.evidence["samples"]

    with Clock() as first:
        ours()
    loop = votes(model, as_unit(data.x), certifier.n0 + certifier.n)
    seconds, found = alternate({"torch": loop, "ours": ours}, options.repeats)
    samples = len(data) * (certifier.n0 + certifier.n)
    (top, share), (prediction, estimate) = found["torch"], found["ours"]
    sure, ratio = prediction >= 0, seconds["torch"] / seconds["ours"]
    print(
        f"{MODEL}, {len(data)} images, {samples:,} samples, median of {options.repeats}\n"
        "| PyTorch, samples/s | ours, samples/s | ours / PyTorch | compiling, s | same class | p differs by |\n"
        "| ---: | ---: | ---: | ---: | ---: | ---: |\n"
        f"| {samples / seconds['torch']:,.0f} | {samples / seconds['ours']:,.0f} "
        f"| {ratio:.2f} | {first.compile_s:.1f} | {np.mean((top == prediction)[sure]):.1%} "
        f"| {np.abs(share - estimate)[sure].max():.4f} |"
    )


def votes(model, x: np.ndarray, samples: int):
    """A function without arguments: (class with the most votes [B], its share of them [B])."""
    forward, images = reference.torch_network(model), torch.tensor(np.moveaxis(x, -1, 1).copy())

    @torch.no_grad()
    def run() -> tuple[np.ndarray, np.ndarray]:
        found = []
        for image in images:
            counts = 0
            for at in range(0, samples, BATCH):
                copies = image.expand(min(BATCH, samples - at), *image.shape)
                answers = forward(copies + SIGMA * torch.randn(copies.shape)).argmax(1)
                counts = counts + torch.bincount(answers, minlength=10)
            found.append((int(counts.argmax()), float(counts.max()) / samples))
        return tuple(np.array(column) for column in zip(*found, strict=True))

    return run
