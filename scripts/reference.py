"""The PyTorch side of the comparisons: our networks with the same weights, a plain PGD, and the reference AutoAttack.

The reference is pyautoattack, the maintained package of the authors' code (Croce & Hein, ICML 2020, arXiv:2003.01690).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from robustbench_jax.ops.images import as_unit

NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}
PARTS = {"apgd": "apgd_ce", "apgd_targeted": "apgd_t", "fab": "fab_t", "square": "square"}


@dataclass
class Part:
    """What one component did: images it saw and broke, evaluations of the model, seconds."""

    attacked: int = 0
    broken: int = 0
    forwards: int = 0
    gradients: int = 0
    seconds: float = 0.0


@dataclass
class Verdict:
    """robust bool [N], and the parts by name."""

    robust: np.ndarray
    parts: dict[str, Part] = field(default_factory=dict)


def autoattack(model, data, norm: str, eps: float, batch: int = 500) -> Verdict:
    """The standard version of the reference, component by component, as its run_standard_evaluation cascades them."""
    from pyautoattack import AutoAttack

    forward, counts = counted(torch_cnn(model))
    x, y = torch.tensor(np.moveaxis(as_unit(data.x), -1, 1).copy()), torch.tensor(data.y.astype(np.int64))
    adversary = AutoAttack(forward, norm=NORMS[norm], eps=eps, version="standard", seed=0)
    adversary.verbose = False
    parts = {}
    for attribute, name in PARTS.items():
        attack = getattr(adversary, attribute)
        parts[name] = Part()
        attack.perturb = watched(attack.perturb, forward, counts, parts[name])
    x_adv, *_ = adversary.run_standard_evaluation(x, y, batch_size=batch)
    with torch.no_grad():
        robust = (forward(x_adv).argmax(1) == y).numpy()
    return Verdict(robust, parts)


def counted(network: Callable) -> tuple[torch.nn.Module, dict[str, int]]:
    """The network as a module that counts the images of its forward and backward passes."""
    counts = {"forwards": 0, "gradients": 0}

    class Counted(torch.nn.Module):
        def forward(self, x):
            counts["forwards"] += len(x)
            out = network(x)
            if out.requires_grad:
                out.register_hook(lambda gradient: counts.__setitem__("gradients", counts["gradients"] + len(gradient)))
            return out

    return Counted().eval(), counts


def watched(perturb: Callable, forward, counts: dict[str, int], part: Part) -> Callable:
    """The same method, which adds what it does to `part`."""

    def run(x, y, *more, **options):
        before, began = dict(counts), time.perf_counter()
        x_adv = perturb(x, y, *more, **options)
        part.seconds += time.perf_counter() - began
        part.forwards += counts["forwards"] - before["forwards"]
        part.gradients += counts["gradients"] - before["gradients"]
        part.attacked += len(x)
        with torch.no_grad():
            part.broken += int((forward(x_adv).argmax(1) != y).sum())
        return x_adv

    return run


def torch_pgd(model, data, starts: np.ndarray, steps: int, eps: float, step: float) -> Callable[[], np.ndarray]:
    """The same attack as anybody would write it in PyTorch: one batch, a gradient of the input alone, no early end.

    An image counts as robust if the model is right at the end of the path.
    """
    forward = torch_cnn(model)
    x0, start = (torch.tensor(np.moveaxis(a, -1, 1).copy()) for a in (as_unit(data.x), starts))
    y = torch.tensor(data.y.astype(np.int64))

    def run() -> np.ndarray:
        x = start.clone()
        for _ in range(steps):
            x.requires_grad_(True)
            loss = torch.nn.functional.cross_entropy(forward(x), y, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, x)
            x = x.detach() + step * gradient.sign()
            x = torch.clamp(torch.minimum(torch.maximum(x, x0 - eps), x0 + eps), 0, 1)
        with torch.no_grad():
            return (forward(x).argmax(1) == y).numpy()

    return run


def torch_cnn(model) -> Callable:
    """The cnn and cnn_a of this package in PyTorch, with the model's weights; takes images [N, C, H, W]."""
    weights = {name: np.array(value) for name, value in model.params.items()}
    convolutions = sorted({int(name.split("/")[1]) for name in weights if name.startswith("convolutions/")})
    strides = {2: (2, 2), 3: (1, 2, 2)}[len(convolutions)]
    mean, std = (torch.tensor(weights[f"normalise/{name}"].reshape(1, -1, 1, 1)) for name in ("mean", "std"))
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
        x = (x - mean) / std
        for kernel, bias, stride in filters:
            x = torch.relu(torch.nn.functional.conv2d(x, kernel, bias, stride=stride, padding=1))
        return torch.relu(x.flatten(1) @ first + head[0]) @ head[1] + head[2]

    return forward
