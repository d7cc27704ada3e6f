"""Many nearly identical small models: trained by this package against one at a time in plain PyTorch.

That is what poisoning asks for: seeds and poison rates (the same images) and the base models of partitions (few
images each). Both programs start from the same weights and see the same batches in the same order; the mean loss of the
last batches is given beside the time. Programs take turns and medians are compared; compiling is not in them.
"""

import argparse
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import torch
from benchmark_training import DECAY, MOMENTUM, RATE, alternate, fill, key, torch_network

from robustbench_jax.data import load_dataset
from robustbench_jax.keys import stream
from robustbench_jax.models import build_model
from robustbench_jax.ops.images import as_unit
from robustbench_jax.registry import build
from robustbench_jax.stacks import fit_many_with_curves
from robustbench_jax.types import Classifier, Dataset


@dataclass(frozen=True)
class Workload:
    """models of one architecture, each on its own `images` (False: all on the same ones) of the training set."""

    name: str
    architecture: str
    models: int
    images: int
    batch: int
    epochs: int
    apart: bool


WORKLOADS = (
    Workload("seeds", "mlp([64])", 16, 4096, 128, 1, False),
    Workload("partitions", "mlp([64])", 50, 192, 32, 5, True),
    Workload("partitions", "mlp([32])", 200, 48, 16, 10, True),
    Workload("seeds", "cnn", 4, 2048, 128, 1, False),
)


def compare(options: argparse.Namespace) -> None:
    data = load_dataset(options.dataset, "train")
    print(
        f"median of {options.repeats}; programs take turns; PyTorch has {torch.get_num_threads()} threads\n"
        "| models | images each | PyTorch, models a minute | ours | ours / PyTorch | a processor's minute | last loss, "
        "PyTorch | ours |\n| --- |" + " ---: |" * 7
    )
    for workload in WORKLOADS:
        print(row(workload, data, options.repeats), flush=True)


def row(load: Workload, data: Dataset, repeats: int) -> str:
    rows = np.arange(load.models * load.images).reshape(load.models, -1) % len(data)
    subsets = rows if load.apart else np.broadcast_to(rows[0], rows.shape)
    keys = jax.vmap(lambda i: jax.random.fold_in(key("models"), i))(jnp.arange(load.models))
    models = [build_model(load.architecture, data.x.shape[1:], len(data.classes), stream(k, "init")) for k in keys]
    stack = models[0].replace(params=jax.tree.map(lambda *each: jnp.stack(each), *(m.params for m in models)))
    programs = {
        "torch": lambda: np.mean(
            [torch_fit(m, data, k, s, load) for m, k, s in zip(models, keys, subsets, strict=True)]
        ),
        "ours": lambda: our_fit(stack, data, keys, subsets, load),
    }
    timed = alternate(programs, 60 * load.models, repeats)
    theirs, ours = timed["torch"], timed["ours"]
    return (
        f"| {load.models} {load.name} of `{load.architecture}` | {load.images} x {load.epochs} | {theirs.wall:,.0f} "
        f"| {ours.wall:,.0f} | {ours.wall / theirs.wall:.2f} | {ours.processor / theirs.processor:.2f} "
        f"| {theirs.result:.5f} | {ours.result:.5f} |"
    )


def our_fit(stack: Classifier, data: Dataset, keys, subsets: np.ndarray, load: Workload) -> float:
    """The mean loss of the last batches."""
    recipe = build(
        "recipe",
        f"sgd(epochs={load.epochs}, batch_size={load.batch}, learning_rate={RATE}, weight_decay={DECAY}, "
        "schedule='constant')",
    )
    seen: dict[int, list[float]] = {}
    fitted, _ = fit_many_with_curves(
        keys,
        stack,
        data,
        recipe,
        defence=build("training", "standard"),
        subsets=subsets,
        report=lambda progress: seen.setdefault(progress.step, []).append(progress.loss),
    )
    jax.block_until_ready(fitted.params)
    return float(np.mean(seen[max(seen)]))


def torch_fit(model: Classifier, data: Dataset, key: jax.Array, rows: np.ndarray, load: Workload) -> float:
    """One model, as anybody would write it: eager, its images on the device beforehand."""
    network = torch_network(model) if "conv" in "".join(model.params) else torch_mlp(model)
    optimiser = torch.optim.SGD(network.parameters(), RATE, MOMENTUM, weight_decay=DECAY, nesterov=True)
    x = torch.tensor(np.moveaxis(as_unit(data.x[rows]), -1, 1).copy())
    y = torch.tensor(data.y[rows].astype(np.int64))
    for epoch in range(load.epochs):
        order = np.asarray(jax.random.permutation(jax.random.fold_in(stream(key, "order"), epoch), len(rows)))
        for at in range(0, len(rows) - load.batch + 1, load.batch):
            batch = torch.tensor(np.array(order[at : at + load.batch]).astype(np.int64))
            optimiser.zero_grad()
            loss = torch.nn.functional.cross_entropy(network(x[batch]), y[batch])
            loss.backward()
            optimiser.step()
    return loss.item()


def torch_mlp(model: Classifier) -> torch.nn.Module:
    """An mlp of this package for images of one channel as a PyTorch module with the same weights."""
    module = model.net.module(model.params)
    layers: list[torch.nn.Module] = [torch.nn.Flatten()]
    for layer in [*module.hidden, module.head]:
        kernel = np.asarray(layer.kernel[...])
        layers += [torch.nn.Linear(*kernel.shape), torch.nn.ReLU()]
        fill(layers[-2], kernel.T, layer.bias[...])
    return torch.nn.Sequential(*layers[:-1])
