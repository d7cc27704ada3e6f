"""Obfuscation: signs that a model looks robust because gradients are masked, or because the attack is too weak.

Each check compares the examined attack with something that cannot beat it unless one of the two is at fault, and is a
line: what was measured, on how many images, where it fails, and the verdict. Two attacks are compared by McNemar's
exact test; a share of images that should be none fails where its one-sided 95% lower bound (Clopper-Pearson) is above
1%, so that one image of a few proves nothing. No verdict is a proof: masks that pass every check exist.

References: Athalye, Carlini & Wagner, ICML 2018, arXiv:1802.00420, section 3.1; Carlini et al., 2019, arXiv:1902.06705,
sections 4 and 5.
Shapes: N examples, D input shape, C classes, G points a side of the surface.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax import metrics
from robustbench_jax.keys import per_example, stream
from robustbench_jax.ops.drive import Attacked, attack_batch, drive
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.judge import classify, predict
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.ops.statistics import clopper_pearson_lower, mcnemar
from robustbench_jax.registry import build, register
from robustbench_jax.threats.evasion import check
from robustbench_jax.threats.health import VANISHED
from robustbench_jax.types import Classifier, Dataset, Metric, Outcome

LEVEL, SHARE = 0.05, 0.01
PARTS = (0.25, 0.5, 1.0, 2.0)  # of eps
PROBES, LEAST = 64, 8  # images whose gradient is tried; fewer than the least decide nothing
SIDE = 21
FAILS = {  # what each check measures, and where it fails
    "one step": "FGSM breaks more than the attack, p < 0.05",
    "black box": "square, without gradients, breaks more than the attack, p < 0.05",
    "random search": "random points of the ball break over 1% of what the attack left",
    "unbounded": "over 1% of the images survive a ball that holds every image",
    "monotone": "a larger eps leaves more images than a smaller one, p < 0.05 over all pairs",
    "zero gradients": f"over {VANISHED:.0%} of the gradients along the path are exactly zero",
    "transfer": "what is made on the undefended model inside breaks more than the attack, p < 0.05",
    "more steps": "over 1% of what the attack left breaks with more steps",
    "direction": "a step along the gradient does not raise the margin more often than a random one, p < 0.05",
}
Line = dict[str, Any]


@register("threat", "obfuscation", paper="carlini2019")
def run(
    key: jax.Array,
    model: Classifier,
    data: Dataset,
    attack: Any,
    budget: Any,
    *,
    pool: Dataset | None = None,
    runtime: Runtime = Runtime(),
    report: Callable[[int], None] = lambda settled: None,
) -> Outcome:
    """Examines a model and checklist(attack) on the images of `data` that the model gets right. The key is consumed.

    Metrics: failed_checks (n: checks that apply), clean_accuracy, robust_accuracy (against the examined attack).
    Arrays: clean_correct and robust bool[N], prediction int[N], x_adv float32[N, D]. Stages: a line for each check, and
    the margin [G, G] over the plane of the gradient and a random direction around the first image.
    """
    check(model, data)
    prediction = classify(model, data.x, runtime)
    clean = prediction == data.y
    trial = Trial(key, model, attack, budget, data.x[clean], data.y[clean], np.flatnonzero(clean), runtime)
    lines = [_timed(name, examine, trial) for name, examine in CHECKS.items()]
    verdicts = [line["verdict"] for line in lines]
    applied, text = sum(v != "not applicable" for v in verdicts), metrics.DEFINITIONS["failed_checks"].text
    robust, x_adv = clean.copy(), as_unit(data.x)
    if len(trial.y):
        robust[clean], x_adv[clean] = ~trial.found.success, trial.found.x_adv
        lines.append(_timed("surface", lambda trial: {"values": surface(trial)}, trial))
    report(len(data))
    found = {
        "failed_checks": Metric(float(verdicts.count("fail")), applied, None, None, text),
        "clean_accuracy": metrics.proportion("clean_accuracy", clean),
        "robust_accuracy": metrics.proportion("robust_accuracy", robust),
    }
    arrays = {"clean_correct": clean, "robust": robust, "prediction": prediction.astype(np.int32), "x_adv": x_adv}
    return Outcome(found, arrays, dict(trial.counts), stages=tuple(lines))


@dataclass
class Trial:
    """The model, checklist(attack) and the images [N, D] that the model gets right, with labels y and ids [N]."""

    key: jax.Array
    model: Classifier
    checklist: Any
    budget: Any
    x: np.ndarray
    y: np.ndarray
    ids: np.ndarray
    runtime: Runtime = Runtime()

    def __post_init__(self):
        self.counts = {"forward_evaluations": 0, "gradient_evaluations": 0}

    @property
    def attack(self) -> Any:
        return self.checklist.attack

    @cached_property
    def found(self) -> Attacked:
        """What the examined attack does in the whole budget."""
        return self.run("attack", self.attack)

    @property
    def left(self) -> np.ndarray:
        """Rows of the images that it did not break."""
        return np.flatnonzero(~self.found.success)

    def run(self, name: str, attack: Any, part: float = 1.0, rows: Any = slice(None)) -> Attacked:
        """Another attack, at a part of eps, on some of the images; name: of its random keys."""
        budget = self.budget.replace(eps=part * self.budget.eps)
        x, y, ids = self.x[rows], self.y[rows], self.ids[rows]
        found = drive(stream(self.key, name), attack, self.model, budget, x, y, ids=ids, runtime=self.runtime)
        for kind in ("forward", "gradient"):
            self.counts[f"{kind}_evaluations"] += int(getattr(found, f"{kind}s").sum())
        return found


def _timed(name: str, examine: Callable[[Trial], Line | None], trial: Trial) -> Line:
    """The line of one check; None is: not applicable."""
    began = time.perf_counter()
    line = (examine(trial) if len(trial.y) else None) or {"n": 0, "measured": {}, "verdict": "not applicable"}
    return {"check": name, "fails where": FAILS.get(name, ""), **line, "seconds": time.perf_counter() - began}


def versus(other: np.ndarray, attack: np.ndarray) -> Line:
    """Fails where `other` bool [n] breaks more images than the examined attack does."""
    test = mcnemar(other, attack)
    fails = test.only_a > test.only_b and test.p_value < LEVEL
    measured = {"only it": test.only_a, "only the attack": test.only_b, "p": test.p_value}
    return {"n": len(other), "measured": measured, "verdict": _verdict(fails)}


def none_of(hits: np.ndarray, what: str) -> Line | None:
    """Fails where more than 1% of hits bool [n] are true, beyond chance."""
    if not len(hits):
        return None
    fails = clopper_pearson_lower(int(hits.sum()), len(hits), LEVEL) > SHARE
    return {"n": len(hits), "measured": {what: int(hits.sum())}, "verdict": _verdict(fails)}


def _one_step(trial: Trial) -> Line:
    return versus(trial.run("one step", build("attack", "fgsm")).success, trial.found.success)


def _black_box(trial: Trial) -> Line:
    square = build("attack", f"square(queries={trial.checklist.queries})")
    return versus(trial.run("black box", square).success, trial.found.success)


def _random_search(trial: Trial) -> Line | None:
    noise = build("attack", f"uniform_noise(steps={trial.checklist.samples})")
    return none_of(trial.run("random", noise, rows=trial.left).success, "found") if len(trial.left) else None


def _unbounded(trial: Trial) -> Line | None:
    if not trial.budget.eps:
        return None
    everything = {jnp.inf: 1.0, 2: trial.x[0].size ** 0.5, 1: trial.x[0].size}[trial.budget.p]
    return none_of(~trial.run("unbounded", trial.attack, everything / trial.budget.eps).success, "left")


def _monotone(trial: Trial) -> Line:
    each = [trial.found if part == 1 else trial.run("attack", trial.attack, part) for part in PARTS]
    pairs = [mcnemar(~large.success, ~small.success) for small, large in zip(each, each[1:], strict=False)]
    rises = [test for test in pairs if test.only_a > test.only_b]
    p = min((test.p_value for test in rises), default=1.0)
    left = [int((~found.success).sum()) for found in each]
    measured = {"eps": [part * float(trial.budget.eps) for part in PARTS], "left": left, "p": p}
    return {"n": len(trial.y), "measured": measured, "verdict": _verdict(p < LEVEL / len(pairs))}


def _zero_gradients(trial: Trial) -> Line | None:
    asked, zero = int(trial.found.gradients.sum()), int(trial.found.vanished.sum())
    if not asked:
        return None
    return {"n": asked, "measured": {"zero": zero}, "verdict": _verdict(zero > VANISHED * asked)}


def _transfer(trial: Trial) -> Line | None:
    if trial.model.twin is trial.model:
        return None
    made = build("attack", "transfer(fgsm, twin=True)").replace(attack=trial.attack)
    return versus(trial.run("transfer", made).success, trial.found.success)


def _more_steps(trial: Trial) -> Line | None:
    longer = lengthened(trial.attack, trial.checklist.times)
    if longer is None or not len(trial.left):
        return None
    return none_of(trial.run("more steps", longer, rows=trial.left).success, "found")


def lengthened(attack: Any, times: int) -> Any:
    """The attack with so many times its steps, also where others wrap it; None where it has no number of steps."""
    if "attack" in vars(attack):
        inner = lengthened(attack.attack, times)
        return None if inner is None else attack.replace(attack=inner)
    return attack.replace(steps=times * attack.steps) if "steps" in vars(attack) else None


def _direction(trial: Trial) -> Line | None:
    x, y, ids = as_unit(trial.x[:PROBES]), trial.y[:PROBES], trial.ids[:PROBES]
    if len(y) < LEAST:
        return None
    ahead, aside = _ends(trial, x, y, ids)
    rise, other = (margins(trial.model, end, y, trial.runtime) for end in (ahead, aside))
    test = mcnemar(rise > other, rise < other)
    measured = {"gradient": test.only_a, "random": test.only_b, "p": test.p_value}
    better = test.only_a > test.only_b and test.p_value < LEVEL
    return {"n": len(y), "measured": measured, "verdict": _verdict(not better)}


def _ends(trial: Trial, x: np.ndarray, y: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The images [n, D] at the edge of the ball along the margin's gradient, and along a random direction."""
    key = stream(trial.key, "direction")
    fgsm = _inside(
        trial.attack, build("attack", "fgsm(loss='margin')")
    )  # through what the examined attack goes through
    if fgsm.prepares:
        fgsm = fgsm.prepare(stream(key, "prepare"), trial.model, trial.budget, x, y, trial.runtime)
    ahead = attack_batch(key, fgsm, trial.model, trial.budget, x, y, ids)
    return np.asarray(ahead), np.asarray(_aside(per_example(stream(key, "aside"), ids), trial.budget, x))


def _inside(attack: Any, kernel: Any) -> Any:
    return attack.replace(attack=_inside(attack.attack, kernel)) if "attack" in vars(attack) else kernel


@jax.jit
def _aside(keys, budget, x):
    return jax.vmap(lambda key, x: budget.along(x, x, jax.random.normal(key, x.shape), 1.0))(keys, x)


def margins(model: Classifier, x: np.ndarray, y: np.ndarray, runtime: Runtime = Runtime()) -> np.ndarray:
    """float [n]: the best logit of another class less that of y, or of no answer where that is larger (x [n, D])."""
    logits = predict(model, x, runtime)
    own = logits[np.arange(len(y)), y]
    if model.rejects:
        own, logits = np.maximum(own, logits[:, -1]), logits[:, :-1]
    return np.where(np.arange(logits.shape[-1]) == y[:, None], -np.inf, logits).max(-1) - own


def surface(trial: Trial) -> list[list[float]]:
    """[G, G] margins around the first image: rows from -eps to eps along a random direction, columns along the gradient
    (of the ball's whole step in each). Positive is misclassified.
    """
    x, y = as_unit(trial.x[:1]), trial.y[:1]
    ahead, aside = (end[0] - x[0] for end in _ends(trial, x, y, trial.ids[:1]))
    grid = np.linspace(-1, 1, SIDE, dtype=np.float32)
    plane = x + grid[:, None, None, None, None] * aside + grid[None, :, None, None, None] * ahead
    points = np.clip(plane.reshape(-1, *x.shape[1:]), 0, 1).astype(np.float32)
    values = margins(trial.model, points, np.repeat(y, len(points)), trial.runtime)
    return [[float(f"{value:.4g}") for value in row] for row in values.reshape(SIDE, SIDE)]


def _verdict(fails: bool) -> str:
    return "fail" if fails else "pass"


CHECKS: dict[str, Callable[[Trial], Line | None]] = {
    "one step": _one_step,
    "black box": _black_box,
    "random search": _random_search,
    "unbounded": _unbounded,
    "monotone": _monotone,
    "zero gradients": _zero_gradients,
    "transfer": _transfer,
    "more steps": _more_steps,
    "direction": _direction,
}
