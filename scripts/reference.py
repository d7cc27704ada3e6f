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


def autoattack(model, data, norm: str, eps: float, only: str | None = None, batch: int = 500) -> Verdict:
    """The standard version of the reference, component by component, as its run_standard_evaluation cascades them, or
    one component alone.
    """
    from pyautoattack import AutoAttack

    forward, counts = counted(torch_network(model))
    x, y = torch.tensor(np.moveaxis(as_unit(data.x), -1, 1).copy()), torch.tensor(data.y.astype(np.int64))
    adversary = AutoAttack(forward, norm=NORMS[norm], eps=eps, version="standard", seed=0)
    adversary.verbose = False
    if only:
        adversary.attacks_to_run = [only.replace("_", "-")]
    parts = {}
    for attribute, name in PARTS.items():
        if only not in (None, name):
            continue
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
    forward = torch_network(model)
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


def torch_network(model) -> Callable:
    """A cnn or pre-activation ResNet of this package in PyTorch, with the model's weights; images [N, C, H, W]."""
    module = model.net.module(model.params)
    mean, std = (tensor(value).reshape(1, -1, 1, 1) for value in (module.normalise.mean, module.normalise.std))
    rest = torch_cnn(module) if hasattr(module, "convolutions") else torch_preact(module)
    return lambda x: rest((x - mean) / std)


def torch_cnn(module) -> Callable:
    convolutions = [convolution(layer) for layer in module.convolutions]
    dense = [(tensor(layer.kernel), tensor(layer.bias)) for layer in [*module.dense, module.head]]
    channels = module.convolutions[-1].kernel.shape[-1]
    first = dense[0][0]
    rows = first.reshape(-1, channels, first.shape[1])
    dense[0] = rows.permute(1, 0, 2).reshape(first.shape).contiguous(), dense[0][1]  # in channels-first order

    def forward(x):
        for layer in convolutions:
            x = torch.relu(layer(x))
        x = x.flatten(1)
        for kernel, bias in dense[:-1]:
            x = torch.relu(torch.addmm(bias, x, kernel))
        return torch.addmm(dense[-1][1], x, dense[-1][0])

    return forward


def torch_preact(module) -> Callable:
    stem, norm = convolution(module.stem), normalisation(module.norm)
    kernel, bias = tensor(module.head.kernel), tensor(module.head.bias)
    blocks = [
        (
            normalisation(block.norm1),
            convolution(block.conv1),
            normalisation(block.norm2),
            convolution(block.conv2),
            block.shortcut and convolution(block.shortcut),
        )
        for block in module.blocks
    ]

    def forward(x):
        x = stem(x)
        for norm1, conv1, norm2, conv2, shortcut in blocks:
            active = torch.relu(norm1(x))
            x = conv2(torch.relu(norm2(conv1(active)))) + (shortcut(active) if shortcut else x)
        return torch.addmm(bias, torch.relu(norm(x)).mean((2, 3)), kernel)

    return forward


def convolution(layer) -> Callable:
    kernel, bias = tensor(layer.kernel).permute(3, 2, 0, 1).contiguous(), layer.bias and tensor(layer.bias)
    (top, bottom), (left, right) = np.broadcast_to(layer.padding, (2, 2)).tolist()
    convolve = torch.nn.functional.conv2d
    if (top, left) == (bottom, right):
        return lambda x: convolve(x, kernel, bias, stride=layer.stride, padding=(top, left))
    pad = torch.nn.ZeroPad2d((left, right, top, bottom))
    return lambda x: convolve(pad(x), kernel, bias, stride=layer.stride)


def normalisation(layer) -> Callable:
    mean, var, scale, bias = (tensor(value) for value in (layer.mean, layer.var, layer.scale, layer.bias))
    return lambda x: torch.nn.functional.batch_norm(x, mean, var, scale, bias, eps=layer.epsilon)


def tensor(value) -> torch.Tensor:
    return torch.tensor(np.array(value[...]))
