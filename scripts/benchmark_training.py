"""What training costs: against the same recipe in plain PyTorch, and each defence against standard training.

Both programs start from the same weights, see the same batches in the same order, take PGD's steps from the same points
and stop at the same images (an image that is misclassified moves no more), so that their losses agree up to rounding,
as long as no sign of a gradient near zero differs: the loss of the first batch is given beside the last one.
Programs take turns and medians are compared. A processor's second is what all threads used, and depends less than wall
time on what else the machine does; `taskset -c 0` gives both programs one core.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
import torch

from robustbench_jax.data import load_dataset
from robustbench_jax.keys import stream
from robustbench_jax.models import build_model
from robustbench_jax.ops.images import as_unit
from robustbench_jax.registry import build, discover
from robustbench_jax.training import fit
from robustbench_jax.types import Classifier, Dataset, UserError

EPS, BATCH, KEY = 0.1, 128, 0
RATE, MOMENTUM, DECAY = 0.02, 0.9, 5e-4
RECIPE = f"sgd(epochs=1, batch_size={BATCH}, learning_rate={RATE}, weight_decay={DECAY}, schedule='constant')"
ATTACKS = (0, 7)


@dataclass(frozen=True)
class Cost:
    """A training defence, with its default arguments, and its time as a multiple of standard training's."""

    defence: str
    rate: float
    multiple: float


@dataclass(frozen=True)
class Timed:
    """Images a second of wall time and of the processor's time, and what the program returned last."""

    wall: float
    processor: float
    result: float


def compare(options: argparse.Namespace) -> None:
    data = some(options.dataset, options.updates)
    model = build_model(options.model[0] if options.model else "cnn", data.x.shape[1:], len(data.classes), key("init"))
    if options.peers:
        print(
            f"{options.updates} steps of {BATCH} images, Linf {EPS}, median of {options.repeats}; programs take turns; "
            f"PyTorch has {torch.get_num_threads()} threads\n"
            "| training | images/s, PyTorch | ours | ours / PyTorch | images a processor's second, PyTorch | ours "
            "| ours / PyTorch | first loss, PyTorch | ours | last loss, PyTorch | ours |\n| --- |" + " ---: |" * 10
        )
        for steps in ATTACKS:
            print(row(model, data, steps, options.repeats), flush=True)
    print("| defence | images a processor's second | cost, standard = 1 |\n| --- | ---: | ---: |")
    for cost in costs(model, data, options.repeats, options.only_defence):
        print(f"| `{cost.defence}` | {cost.rate:,.0f} | {cost.multiple:.1f} |", flush=True)


def some(dataset: str, batches: int) -> Dataset:
    """The first images of the training set, as many as fill so many batches."""
    return load_dataset(dataset, "train").take(batches * BATCH)


def key(name: str) -> jax.Array:
    return stream(jax.random.key(KEY), name)


def row(model: Classifier, data: Dataset, steps: int, repeats: int) -> str:
    defence = build(
        "training",
        f"adversarial_training(pgd(steps={steps}, random_start=False), linf({EPS}))" if steps else "standard",
    )
    programs = {"torch": lambda: torch_fit(model, data, steps), "ours": lambda: our_fit(model, data, defence)}
    begin = [torch_fit(model, data.take(BATCH), steps), our_fit(model, data.take(BATCH), defence)]
    timed = alternate(programs, len(data), repeats)
    theirs, ours = timed["torch"], timed["ours"]
    losses = " | ".join(f"{loss:.6f}" for loss in (*begin, theirs.result, ours.result))
    return (
        f"| {f'adversarial, PGD-{steps}' if steps else 'standard'} | {theirs.wall:,.0f} | {ours.wall:,.0f} "
        f"| {ours.wall / theirs.wall:.2f} | {theirs.processor:,.0f} | {ours.processor:,.0f} "
        f"| {ours.processor / theirs.processor:.2f} | {losses} |"
    )


def our_fit(model: Classifier, data: Dataset, defence) -> float:
    """The loss of the last batch."""
    seen = []
    fitted = fit(key("fit"), model, data, build("recipe", RECIPE), defence=defence, report=seen.append)
    jax.block_until_ready(fitted.params)
    return seen[-1].loss


def torch_fit(model: Classifier, data: Dataset, steps: int) -> float:
    """As anybody would write it in PyTorch: eager, PGD on the input's gradient alone, then one step of SGD."""
    network = torch_network(model)
    optimiser = torch.optim.SGD(network.parameters(), RATE, MOMENTUM, weight_decay=DECAY, nesterov=True)
    order = np.asarray(jax.random.permutation(jax.random.fold_in(stream(key("fit"), "order"), 0), len(data)))
    for rows in order.reshape(-1, BATCH):
        x = torch.tensor(np.moveaxis(as_unit(data.x[rows]), -1, 1).copy())
        y = torch.tensor(data.y[rows].astype(np.int64))
        x = torch_pgd(network, x, y, steps)
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(x), y)
        loss.backward()
        optimiser.step()
    return loss.item()


def torch_pgd(network: torch.nn.Module, x0: torch.Tensor, y: torch.Tensor, steps: int) -> torch.Tensor:
    x = x0
    for _ in range(steps):
        x.requires_grad_(True)
        loss = torch.nn.functional.cross_entropy(network(x), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
        moved = x.detach() + EPS * 2.5 / steps * gradient.sign()
        x = torch.clamp(torch.minimum(torch.maximum(moved, x0 - EPS), x0 + EPS), 0, 1)
    return x


def torch_network(model: Classifier) -> torch.nn.Module:
    """A cnn of this package as a PyTorch module with the same weights, which can be trained; images [N, C, H, W]."""
    module = model.net.module(model.params)
    layers: list[torch.nn.Module] = []
    for layer in module.convolutions:
        (high, wide, ins, outs), pad = layer.kernel.shape, layer.padding[0][0]
        layers += [torch.nn.Conv2d(ins, outs, (high, wide), layer.stride, pad), torch.nn.ReLU()]
        fill(layers[-2], np.transpose(layer.kernel[...], (3, 2, 0, 1)), layer.bias[...])
    layers.append(torch.nn.Flatten())
    for layer in [*module.dense, module.head]:
        kernel = np.asarray(layer.kernel[...])
        if isinstance(layers[-1], torch.nn.Flatten):  # in channels-first order
            kernel = kernel.reshape(-1, outs, kernel.shape[1]).transpose(1, 0, 2).reshape(kernel.shape)
        layers += [torch.nn.Linear(*kernel.shape), torch.nn.ReLU()]
        fill(layers[-2], kernel.T, layer.bias[...])
    return torch.nn.Sequential(*layers[:-1])


def fill(layer: torch.nn.Module, weight: np.ndarray, bias: np.ndarray) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(np.array(weight)))
        layer.bias.copy_(torch.tensor(np.array(bias)))


def costs(model: Classifier, data: Dataset, repeats: int, only: list[str] | None = None) -> list[Cost]:
    """Every registered training defence that can train this model with its default arguments, teachers included."""
    made = {}
    for name in discover("training"):
        try:
            made[name] = build("training", name)
            if only and name not in (*only, "standard"):
                made.pop(name)
                continue
            our_fit(model, data, made[name])
        except UserError as error:
            made.pop(name, None)
            print(f"left out: {name}: {error}")
    programs = {name: lambda defence=defence: our_fit(model, data, defence) for name, defence in made.items()}
    rates = {name: timed.processor for name, timed in alternate(programs, len(data), repeats).items()}
    return [Cost(name, rate, rates["standard"] / rate) for name, rate in rates.items()]


def alternate(programs: dict[str, Callable], count: int, repeats: int) -> dict[str, Timed]:
    """Medians over the turns that the programs take, after one turn that does not count."""
    times, results = {name: [] for name in programs}, {}
    for repeat in range(repeats + 1):
        for name, program in programs.items():
            began = np.array([time.perf_counter(), time.process_time()])
            results[name] = program()
            if repeat:
                times[name].append(np.array([time.perf_counter(), time.process_time()]) - began)
    return {name: Timed(*(count / np.median(spent, axis=0)), results[name]) for name, spent in times.items()}
