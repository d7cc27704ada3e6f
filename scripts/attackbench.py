"""Compares minimal-norm attacks by AttackBench's optimality: ours and those of the PyPI packages that are installed.

    pip install foolbox adv-lib torchattacks cleverhans adversarial-robustness-toolbox
    python scripts/attackbench.py [MODEL ...] [--norms linf l2 l1 l0] [--examples 100] [--propagations 2000]

Every attack gets the same weights, the same images (those that the model classifies correctly), and `propagations`
forward and backward passes an image. An attack's result for an image is the smallest adversarial point that it asked
the model about within them; what comes after is answered with zeros. MODEL is what `robustbench-jax list` shows, or
torch_weights("cifar10_cnn_a_mix.pt", arch="cnn_a", ...); its architecture must be a cnn.
Reference: Cina et al., AAAI 2025, arXiv:2404.19460.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import torch
from reference import torch_network

from robustbench_jax.bench.optimality import envelope, optimality
from robustbench_jax.bench.workshop import load_model
from robustbench_jax.cli import use_all_cores
from robustbench_jax.data import load_dataset
from robustbench_jax.ops.drive import drive
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.judge import classify
from robustbench_jax.registry import build

MODELS = ["fashion_mnist/clean/standard", "fashion_mnist/linf/pgd_at"]
NORMS = {"linf": torch.inf, "l2": 2, "l1": 1, "l0": 0}


@dataclass
class Result:
    """One attack on N images: sizes [N], NaN for none; forward and backward passes an image; seconds in all."""

    size: np.ndarray
    forwards: float
    backwards: float
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL")
    parser.add_argument("--norms", nargs="+", default=list(NORMS), choices=list(NORMS))
    parser.add_argument("--dataset", default="fashion_mnist_mini")
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--propagations", type=int, default=2000)
    parser.add_argument("--only", default="", help="run only attacks whose name contains this; others as kept")
    parser.add_argument("--keep", type=Path, help="a directory: results found there are not computed again")
    parser.add_argument("--threads", type=int, help="of PyTorch; 1 on a machine that others use as well")
    options = parser.parse_args()
    use_all_cores()
    torch.set_num_threads(options.threads or torch.get_num_threads())
    for model in options.models:
        data = load_dataset(options.dataset, limit=options.examples)
        for norm in options.norms:
            compare(model, data, norm, options)


def compare(name: str, data, norm: str, options: argparse.Namespace) -> None:
    model = load_model(name)
    right = np.flatnonzero(classify(model, data.x) == data.y)
    x, y = data.x[right], data.y[right]
    attacks = ours(norm, options.propagations, model) | peers(norm, options.propagations)
    results = {}
    for attack, run in attacks.items():
        words = (name, norm, str(len(y)), str(options.propagations), attack)
        file = options.keep and options.keep / f"{'-'.join(map(_slug, words))}.json"
        again = options.only in attack
        if file and file.exists() and not (options.only and again):
            results[attack] = _read(file)
        elif again:
            results[attack] = run(model, x, y, norm, options.propagations)
            if file:
                _write(file, results[attack])
    show(name, norm, len(y), options.propagations, results)


def _read(file: Path) -> Result:
    found = json.loads(file.read_text())
    return Result(np.array(found.pop("size"), float), **found)


def _write(file: Path, result: Result) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(vars(result) | {"size": result.size.tolist()}))


def show(name: str, norm: str, count: int, propagations: int, results: dict[str, Result]) -> None:
    best = envelope({k: r.size for k, r in results.items()})
    print(f"\n{name}, {norm}, {count} correctly classified images, {propagations} propagations")
    print("| attack | optimality | median size | found | forwards | backwards | seconds |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    scores = {k: optimality(r.size, best) for k, r in results.items()}
    for k, r in sorted(results.items(), key=lambda kv: -scores[kv[0]]):
        median = np.median(np.where(np.isnan(r.size), np.inf, r.size))
        print(
            f"| {k} | {scores[k]:.3f} | {median:.4g} | {np.mean(~np.isnan(r.size)):.1%} "
            f"| {r.forwards:.0f} | {r.backwards:.0f} | {r.seconds:.1f} |",
            flush=True,
        )


def ours(norm: str, propagations: int, model) -> dict[str, Callable]:
    """Our attacks of that norm with as many steps as the propagations pay for; the name is the call string."""
    half, classes = propagations // 2, len(model.params["head/bias"])
    deepfool = f"deepfool(steps={min(50, propagations // (classes + 1))})"
    fab = f"fab(steps={propagations // (classes + 1)})"
    search = half // 9
    texts = [f"fmn(steps={half})", f"pdpgd(steps={half})"] + {
        "linf": [deepfool, fab, f"carlini_wagner_linf(runs=40, iterations={half // 40}, learning_rate=0.01)"],
        "l2": [deepfool, fab, f"ddn(steps={half})", f"ddn(steps={half}, levels=0)"]
        + [f"carlini_wagner(iterations={search})", f"carlini_wagner(iterations={search}, abort=False, warm=True)"],
        "l1": [fab, f"ead(iterations={propagations // 27})", f"ead(iterations={propagations // 27}, beta=0.01)"],
        "l0": [f"sigma_zero(steps={half})"],
    }[norm]
    return {text: _ours(text) for text in texts}


def _ours(text: str) -> Callable:
    def run(model, x, y, norm, propagations):
        widest = {"linf": 1.0, "l2": float(np.sqrt(x[0].size)), "l1": float(x[0].size), "l0": float(x[0].size)}[norm]
        attack, budget = build("attack", text), build("budget", f"{norm}({widest})")
        drive(jax.random.key(1), _short(attack), model, budget, x, y)  # compiles
        began = time.perf_counter()
        found = drive(jax.random.key(0), attack, model, budget, x, y)
        seconds = time.perf_counter() - began
        size = np.where(found.success, found.size, np.nan)
        return Result(size, float(found.forwards.mean()), float(found.gradients.mean()), seconds)

    return run


def _short(attack):
    """The same program with few steps: numbers are traced."""
    few = {name: 2 for name in ("steps", "iterations", "searches", "runs") if name in vars(attack)}
    return attack.replace(**few)


def peers(norm: str, propagations: int) -> dict[str, Callable]:
    """The attacks of that norm in the packages that are installed, by "package name"."""
    found = {}
    for package in (_adv_lib, _foolbox, _torchattacks, _cleverhans, _art):
        try:
            found |= package(norm, propagations)
        except ImportError as error:
            print(f"left out: {package.__name__[1:]} ({error})")
    return {name: _peer(attack) for name, attack in found.items()}


def _peer(attack: Callable) -> Callable:
    def run(model, x, y, norm, propagations):
        images = torch.tensor(np.moveaxis(as_unit(x), -1, 1).copy())
        watched = Watched(torch_network(model), images, torch.tensor(y.astype(np.int64)), norm, propagations)
        torch.manual_seed(0)
        began = time.perf_counter()
        last = attack(watched, images.clone(), watched.labels.clone())
        seconds = time.perf_counter() - began
        watched.met_at_last(last)
        size = np.where(torch.isinf(watched.best), np.nan, watched.best.numpy())
        return Result(size, watched.forwards / len(x), watched.backwards / len(x), seconds)

    return run


class Watched(torch.nn.Module):
    """The model as AttackBench hands it out: it counts, remembers the smallest adversarial point of each image, and
    answers zeros once the propagations are spent. Batches with fewer rows than there are images are answered and
    counted, but whose rows they are is not known; what the attack returns is judged as well.
    """

    def __init__(self, forward: Callable, images: torch.Tensor, labels: torch.Tensor, norm: str, propagations: int):
        super().__init__()
        self.answer, self.images, self.labels, self.norm = forward, images, labels, norm
        self.limit = propagations * len(images)
        self.forwards = self.backwards = 0
        self.best = torch.full((len(images),), torch.inf)
        self.dummy = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
        self.classes = forward(images[:1]).shape[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.forwards + self.backwards >= self.limit:
            return x.flatten(1)[:, : self.classes] * 0
        self.forwards += len(x)
        logits = self.answer(x)
        if logits.requires_grad:
            logits.register_hook(lambda g: self._backward(len(g)))
        if len(x) == len(self.images):
            self._meet(x.detach(), logits.detach())
        return logits

    def met_at_last(self, x: torch.Tensor) -> None:
        with torch.no_grad():
            self._meet(x.detach(), self.answer(x))

    def _backward(self, rows: int) -> None:
        self.backwards += rows

    def _meet(self, x: torch.Tensor, logits: torch.Tensor) -> None:
        inside = (x.flatten(1).amin(1) >= 0) & (x.flatten(1).amax(1) <= 1)
        wrong = (logits.argmax(1) != self.labels) & inside
        size = (x - self.images).flatten(1).norm(p=NORMS[self.norm], dim=1)
        self.best = torch.where(wrong & (size < self.best), size, self.best)


def _adv_lib(norm: str, propagations: int) -> dict[str, Callable]:
    from adv_lib import attacks

    half, p = propagations // 2, NORMS[norm]
    found = {"adv_lib fmn": lambda m, x, y: attacks.fmn(m, x, y, norm=p, steps=half)}
    found["adv_lib pdpgd"] = lambda m, x, y: attacks.pdpgd(m, x, y, norm=p, num_steps=half)
    if norm == "l0":
        found["adv_lib pdpgd 2/3"] = lambda m, x, y: attacks.pdpgd(
            m, x, y, norm=p, num_steps=half, proximal_operator=23
        )
        found["adv_lib sigma_zero"] = lambda m, x, y: attacks.sigma_zero(m, x, y, num_steps=half)
    else:
        found["adv_lib fab"] = lambda m, x, y: attacks.fab(m, x, y, norm=p, n_iter=propagations // 12)
    if norm in ("linf", "l2"):
        found["adv_lib deepfool"] = lambda m, x, y: attacks.df(m, x, y, norm=p, steps=50)
    if norm == "linf":
        found["adv_lib cw"] = lambda m, x, y: attacks.carlini_wagner_linf(m, x, y, max_iterations=half // 40)
    if norm == "l2":
        found["adv_lib ddn"] = lambda m, x, y: attacks.ddn(m, x, y, steps=half)
        found["adv_lib ddn, no levels"] = lambda m, x, y: attacks.ddn(m, x, y, steps=half, levels=None)
        found["adv_lib cw"] = lambda m, x, y: attacks.carlini_wagner_l2(m, x, y, max_iterations=half // 9)
        found["adv_lib pdgd"] = lambda m, x, y: attacks.pdgd(m, x, y, num_steps=half)
        found["adv_lib superdeepfool"] = lambda m, x, y: attacks.sdf(m, x, y)
    if norm in ("l2", "l1"):
        rate = 1.0 if norm == "l2" else 0.5
        found["adv_lib alma"] = lambda m, x, y: attacks.alma(
            m, x, y, distance=norm, num_steps=half, init_lr_distance=rate
        )
    return found


def _foolbox(norm: str, propagations: int) -> dict[str, Callable]:
    import foolbox

    fb, half = foolbox.attacks, propagations // 2
    made = {
        "linf": {"fmn": fb.LInfFMNAttack(steps=half), "deepfool": fb.LinfDeepFoolAttack()},
        "l2": {"fmn": fb.L2FMNAttack(steps=half), "deepfool": fb.L2DeepFoolAttack(), "ddn": fb.DDNAttack(steps=half)}
        | {"cw": fb.L2CarliniWagnerAttack(steps=half // 9)},
        "l1": {"fmn": fb.L1FMNAttack(steps=half), "ead": fb.EADAttack(steps=propagations // 27, decision_rule="L1")},
        "l0": {"fmn": fb.L0FMNAttack(steps=half)},
    }[norm]

    def calling(attack):
        def call(m, x, y):
            wrapped = foolbox.PyTorchModel(m.eval(), bounds=(0, 1), device="cpu")
            return attack.run(wrapped, x, foolbox.criteria.Misclassification(y))

        return call

    return {f"foolbox {name}": calling(attack) for name, attack in made.items()}


def _torchattacks(norm: str, propagations: int) -> dict[str, Callable]:
    import torchattacks as ta

    half = propagations // 2
    found = {}
    if norm == "l2":
        found["cw"] = lambda m: ta.CW(m, steps=half)
        found["deepfool"] = lambda m: ta.DeepFool(m)
    if norm == "l1":
        found["ead"] = lambda m: ta.EADL1(m, max_iterations=propagations // 27)
    if norm in ("linf", "l2"):  # its L1 raises UnboundLocalError (3.5.1)
        name = {"linf": "Linf", "l2": "L2"}[norm]
        found["fab"] = lambda m: ta.FAB(m, norm=name, eps=1e9, steps=propagations // 12)
    return {f"torchattacks {k}": (lambda m, x, y, make=make: make(m)(x, y)) for k, make in found.items()}


def _cleverhans(norm: str, propagations: int) -> dict[str, Callable]:
    from cleverhans.torch.attacks.carlini_wagner_l2 import carlini_wagner_l2

    if norm != "l2":
        return {}
    searches = {"binary_search_steps": 9, "max_iterations": propagations // 18, "initial_const": 1e-3, "lr": 1e-2}
    return {"cleverhans cw": lambda m, x, y: carlini_wagner_l2(m, x, m.classes, y=y, **searches)}


def _art(norm: str, propagations: int) -> dict[str, Callable]:
    from art.attacks import evasion as art
    from art.estimators.classification import PyTorchClassifier

    half = propagations // 2
    made = {
        "l2": {
            "cw": lambda c: art.CarliniL2Method(
                c, max_iter=half // 9, binary_search_steps=9, batch_size=128, verbose=False
            ),
            "deepfool": lambda c: art.DeepFool(c, max_iter=50, batch_size=128, verbose=False),
        },
        "l1": {
            "ead": lambda c: art.ElasticNet(
                c, max_iter=propagations // 27, binary_search_steps=9, batch_size=128, decision_rule="L1", verbose=False
            )
        },
    }.get(norm, {})

    def calling(make):
        def call(m, x, y):
            loss = torch.nn.CrossEntropyLoss()
            wrapped = PyTorchClassifier(m, loss, tuple(x.shape[1:]), m.classes, clip_values=(0, 1), device_type="cpu")
            return torch.tensor(make(wrapped).generate(x.numpy(), y.numpy()))

        return call

    return {f"art {name}": calling(make) for name, make in made.items()}


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in text)


if __name__ == "__main__":
    main()
