"""IBP, CROWN-IBP and CROWN of auto_LiRPA and of this package, on the same weights and images.

auto_LiRPA (github.com/Verified-Intelligence/auto_LiRPA) pins old versions of PyTorch, so it is looked for on the
PYTHONPATH of another Python, which needs neither JAX nor this package:

    python scripts/reference_bounds.py write cases.npz [--cnn-a FILE]          networks, images and our bounds
    PYTHONPATH=auto_LiRPA other/python scripts/reference_bounds.py peer cases.npz theirs.npz
    python scripts/reference_bounds.py compare cases.npz theirs.npz

Bounds are lower ones of each image's predicted logit minus each other logit. CROWN has bounds by CROWN inside, and the
slope 1 or 0 below unstable ReLUs that leaves the smaller area ("adaptive" there, the only choice here).
"""

import argparse
import time

import numpy as np

METHODS = ("ibp", "crown_ibp", "crown")
BUDGETS = {"linf": 2 / 255, "l2": 0.2}
PEER_METHODS = {"ibp": "IBP", "crown_ibp": "CROWN-IBP", "crown": "CROWN"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["write", "peer", "compare"])
    parser.add_argument("files", nargs="+")
    parser.add_argument("--cnn-a", help="a PyTorch file with the weights of a cnn_a for CIFAR-10")
    options = parser.parse_args()
    {"write": write, "peer": peer, "compare": compare}[options.what](options)


def networks(options) -> dict:
    """{name: (list of layers, image shape)}; a layer is (kind, weights), in PyTorch's layout."""
    rng = np.random.default_rng(0)

    def array(*shape):
        return (rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)

    made = {
        "dense": ([("flat", ()), *_stack([48, 40, 30, 20], array), ("dense", (array(10, 20), array(10)))], (3, 4, 4)),
        "residual": (
            [
                ("conv", (array(6, 3, 3, 3), array(6), 1, 1)),
                ("relu", ()),
                ("block", (array(6, 6, 3, 3), array(6), array(6, 6, 3, 3), array(6))),
                ("relu", ()),
                ("flat", ()),
                ("dense", (array(10, 216), array(10))),
            ],
            (3, 6, 6),
        ),
    }
    if options.cnn_a:
        made["cnn_a"] = (cnn_a(options.cnn_a), (3, 32, 32))
    return made


def _stack(widths, array) -> list:
    return [
        layer
        for a, b in zip(widths, widths[1:], strict=False)
        for layer in (("dense", (array(b, a), array(b))), ("relu", ()))
    ]


def cnn_a(path: str) -> list:
    from robustbench_jax.models import torch_files

    tensors = torch_files.state_dict(torch_files.read(path)[0], path)
    arrays = [np.asarray(v, np.float32) for v in tensors.values()]
    convs, denses = arrays[:4], arrays[4:]
    layers = []
    for k, b in zip(convs[::2], convs[1::2], strict=True):
        layers += [("conv", (k, b, 2, 1)), ("relu", ())]
    return [*layers, ("flat", ()), ("dense", tuple(denses[:2])), ("relu", ()), ("dense", tuple(denses[2:]))]


def ours(layers: list):
    """The network for one image [H, W, C] in JAX, and its weights."""
    import jax

    from robustbench_jax.ops import layers as ops

    def conv(x, k, b, stride, pad):
        return ops.conv(x, k, stride=stride, padding=pad) + b

    def apply(params, x):
        for (kind, fixed), w in zip(layers, params, strict=True):
            if kind == "dense":
                x = w[0] @ x + w[1]
            elif kind == "conv":
                x = conv(x, *w, *fixed[2:])
            elif kind == "block":
                x = x + conv(jax.nn.relu(conv(x, *w[:2], 1, 1)), *w[2:], 1, 1)
            else:
                x = jax.nn.relu(x) if kind == "relu" else x.transpose(2, 0, 1).reshape(-1)
        return x

    def own(weight):
        return weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight

    return apply, [[own(v) for v in fixed if isinstance(v, np.ndarray)] for _, fixed in layers]


def theirs(layers: list):
    import torch
    from torch import nn

    def set_(module, weight, bias):
        module.weight.data, module.bias.data = torch.tensor(weight), torch.tensor(bias)
        return module

    def conv(k, b, stride=1, pad=1):
        return set_(nn.Conv2d(k.shape[1], k.shape[0], k.shape[2], stride, pad), k, b)

    class Block(nn.Module):
        def __init__(self, k, b, k2, b2):
            super().__init__()
            self.inside = nn.Sequential(conv(k, b), nn.ReLU(), conv(k2, b2))

        def forward(self, x):
            return x + self.inside(x)

    makers = {
        "dense": lambda w, b: set_(nn.Linear(w.shape[1], w.shape[0]), w, b),
        "conv": conv,
        "relu": nn.ReLU,
        "flat": nn.Flatten,
        "block": Block,
    }
    return nn.Sequential(*(makers[kind](*fixed) for kind, fixed in layers)).eval()


def write(options) -> None:
    import jax

    from robustbench_jax.certify.bounded import margin_rows, regions_of
    from robustbench_jax.ops.runtime import make_room
    from robustbench_jax.registry import build
    from robustbench_jax.types import Classifier

    make_room()
    out = {}
    for name, (layers, shape) in networks(options).items():
        apply, params = ours(layers)
        model = Classifier(apply, params)
        x = np.random.default_rng(1).uniform(0.25, 0.75, (20, *shape)).astype(np.float32)
        own = np.moveaxis(x, 1, -1)
        y = np.asarray(jax.vmap(model)(own)).argmax(-1)
        out |= {f"{name}/x": x, f"{name}/y": y, f"{name}/layers": np.array(layers, object)}
        for budget, eps in BUDGETS.items():
            regions, rows = regions_of(own, build("budget", f"{budget}({eps!r})")), margin_rows(y, 10)
            for method in METHODS:
                certifier, times = build("certifier", method), []
                with jax.default_matmul_precision("highest"):
                    for _ in range(2):
                        start = time.perf_counter()
                        found = np.asarray(certifier.margins(model, regions, rows))
                        times.append(time.perf_counter() - start)
                out[f"{name}/{budget}/{method}"] = found
                print(f"{name} {budget} {method}: mean {found.mean():.6f}, second run {times[1]:.3f} s", flush=True)
    np.savez(options.files[0], **out, allow_pickle=True)


def peer(options) -> None:
    import torch
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    cases, out = np.load(options.files[0], allow_pickle=True), {}
    for name in sorted({key.split("/")[0] for key in cases if "/" in key}):
        layers = [tuple(layer) for layer in cases[f"{name}/layers"]]
        x, y = torch.tensor(cases[f"{name}/x"]), torch.tensor(cases[f"{name}/y"])
        rows = torch.eye(10)[y][:, None] - torch.eye(10)[None]
        rows = torch.stack([r[[j for j in range(10) if j != k]] for r, k in zip(rows, y, strict=True)])
        model = BoundedModule(theirs(layers), torch.empty_like(x[:1]), bound_opts={"conv_mode": "matrix"})
        for budget, eps in BUDGETS.items():
            norm = {"linf": np.inf, "l2": 2.0}[budget]
            options_of = dict(x_L=(x - eps).clamp(0, 1), x_U=(x + eps).clamp(0, 1)) if budget == "linf" else {}
            within = BoundedTensor(x, PerturbationLpNorm(norm=norm, eps=eps, **options_of))
            for method, called in PEER_METHODS.items():
                start = time.perf_counter()
                with torch.no_grad():
                    low, _ = model.compute_bounds(x=(within,), C=rows, method=called, bound_upper=False)
                out[f"{name}/{budget}/{method}"] = low.numpy()
                print(
                    f"{name} {budget} {method}: mean {low.mean():.6f}, {time.perf_counter() - start:.3f} s", flush=True
                )
    np.savez(options.files[1], **out)


def compare(options) -> None:
    ours_, theirs_ = np.load(options.files[0], allow_pickle=True), np.load(options.files[1])
    print("| case | ours, mean | auto_LiRPA, mean | largest difference over 1 + size | ours lower by at most |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for key in theirs_:
        a, b = ours_[key], theirs_[key]
        off = (a - b) / (1 + np.abs(b))
        print(
            f"| {key} | {a.mean():.6f} | {b.mean():.6f} | {np.abs(off).max():.1e} | {np.maximum(-off, 0).max():.1e} |"
        )


if __name__ == "__main__":
    main()
