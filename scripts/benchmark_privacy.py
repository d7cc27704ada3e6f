"""Privacy: clipped gradients against Opacus, and a pool of shadow models against one at a time in plain PyTorch.

Both programs clip the gradients of the same images by the same weights to norm 1 and add them up; the largest
difference of the two sums is given beside the times. Plain: the gradient of the mean loss, by this package. Programs
take turns and medians are compared; compiling is not in them. Processor time is what all threads used: it depends less
than wall time on what else the machine does.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import torch
from benchmark_poisoning import Workload, row, torch_mlp
from benchmark_training import alternate, key, torch_network

from robustbench_jax.data import load_dataset
from robustbench_jax.models import build_model
from robustbench_jax.models.per_example import clipped_sum, losses
from robustbench_jax.ops.images import as_unit
from robustbench_jax.types import Classifier, Dataset

STEPS = (("mlp([256])", 256), ("mlp([256, 256])", 256), ("cnn", 128), ("cnn_a", 128))
SHADOWS = (
    Workload("shadow models", "mlp([64])", 32, 4096, 128, 1, True),
    Workload("shadow models in batches of 32", "mlp([64])", 32, 2048, 32, 2, True),
    Workload("shadow models", "cnn", 2, 2048, 128, 1, True),
)
ROUNDS = 5  # steps of one turn


def compare(options: argparse.Namespace) -> None:
    data = load_dataset(options.dataset, "train")
    print(
        f"median of {options.repeats}; programs take turns; PyTorch has {torch.get_num_threads()} threads\n"
        "| clipped gradients | batch | Opacus, ms | ours, ms | Opacus / ours | plain, ms | ours / plain "
        "| Opacus / ours, processor time | ours / plain, processor time | difference |\n"
        "| --- |" + " ---: |" * 9
    )
    for architecture, batch in STEPS:
        print(step(architecture, batch, data, options.repeats), flush=True)
    print(
        "\n| models | images each | PyTorch, models a minute | ours | ours / PyTorch | a processor's minute "
        "| last loss, PyTorch | ours |\n| --- |" + " ---: |" * 7
    )
    for load in SHADOWS:
        print(row(load, data, options.repeats), flush=True)


def step(architecture: str, batch: int, data: Dataset, repeats: int) -> str:
    model = build_model(architecture, data.x.shape[1:], len(data.classes), key("model"))
    x, y = as_unit(data.x[:batch]), data.y[:batch]
    ours = jax.jit(lambda p, x, y: clipped_sum(model.net, p, x[:, None], y, jnp.ones(len(y), bool), 1.0, "auto")[0])
    plain = jax.jit(lambda p, x, y: jax.grad(lambda w: jnp.mean(losses(model.net, p, w, x, y)))(model.net.trainable(p)))
    given = (model.params, jnp.asarray(x), jnp.asarray(y))

    def repeated(function):
        def run() -> dict:
            for _ in range(ROUNDS):
                found = jax.block_until_ready(function(*given))
            return found

        return run

    programs = {"torch": opacus_sum(model, x, y), "ours": repeated(ours), "plain": repeated(plain)}
    timed = alternate(programs, 1, repeats)
    wall, spent = ({k: 1000 / getattr(v, clock) / ROUNDS for k, v in timed.items()} for clock in ("wall", "processor"))
    theirs = timed["torch"].result
    mine = [np.asarray(value) for _, value in sorted(timed["ours"].result.items())]
    apart = max(
        abs(np.linalg.norm(a) - np.linalg.norm(b)) / np.linalg.norm(b)
        for a, b in zip(sorted_like(mine), theirs, strict=True)
    )
    return (
        f"| `{architecture}` | {batch} | {wall['torch']:.1f} | {wall['ours']:.1f} | {wall['torch'] / wall['ours']:.1f} "
        f"| {wall['plain']:.1f} | {wall['ours'] / wall['plain']:.1f} | {spent['torch'] / spent['ours']:.1f} "
        f"| {spent['ours'] / spent['plain']:.1f} | {apart:.1e} |"
    )


def sorted_like(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """By size, then by norm: the two programs name and lay out their weights differently."""
    return sorted(arrays, key=lambda a: (a.size, np.linalg.norm(a)))


def opacus_sum(model: Classifier, x: np.ndarray, y: np.ndarray):
    """The clipped sum as Opacus's optimiser makes it, from the gradients of its hooks."""
    from opacus.grad_sample import GradSampleModule

    network = torch_network(model) if "conv" in "".join(model.params) else torch_mlp(model)
    network = GradSampleModule(network)
    images, labels = torch.tensor(np.moveaxis(x, -1, 1).copy()), torch.tensor(y.astype(np.int64))

    def run() -> list[np.ndarray]:
        for _ in range(ROUNDS):
            network.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(network(images), labels, reduction="sum").backward()
            each = [p.grad_sample for p in network.parameters() if p.requires_grad]
            sizes = torch.stack([g.flatten(1).norm(2, dim=-1) for g in each], 1).norm(2, dim=1)
            factors = (1.0 / (sizes + 1e-6)).clamp(max=1.0)
            summed = [torch.einsum("i,i...", factors, g) for g in each]
        return sorted_like([value.detach().numpy() for value in summed])

    return run
