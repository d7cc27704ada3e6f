"""Health checks of an evasion result: what casts doubt on it, a line each.

AutoAttack warns of some of these on the terminal (Croce & Hein, ICML 2020, arXiv:2003.01690, and the flags of its
repository); here they are part of the record, and zero gradients are counted along the whole path.
Shapes: N examples, D input shape, C classes.
"""

from typing import Any

import jax
import numpy as np

from robustbench_jax.keys import stream
from robustbench_jax.ops.drive import Attacked, attack_batch
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.judge import predict
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import build
from robustbench_jax.types import Classifier

VANISHED = 0.01  # share of zero gradients from which on they are named
BLACK_BOX = 0.002  # share of images that black-box stages may break after white-box ones
PROBES = 64  # images whose loss is followed along eps


def of_the_model(model: Classifier, x: np.ndarray, runtime: Runtime) -> list[str]:
    """From the logits of the clean images alone."""
    logits, flags = predict(model, x, runtime), []
    again = predict(model, x, runtime, jax.random.key(1))
    moved = float(np.max(np.abs(logits - again), initial=0))
    if moved > 1e-4 * max(1.0, float(np.max(np.abs(logits), initial=0))):
        flags.append(f"randomised: two answers to one image differ by up to {moved:.2g}; attacks should average (eot)")
    if len(x) > 1 and not np.ptp(logits, axis=0).any() and np.ptp(x, axis=0).any():
        flags.append("constant: the logits are the same for every image")
    if np.all(logits >= 0) and np.allclose(logits.sum(-1), 1, atol=1e-5):
        flags.append("probabilities: the outputs lie in [0, 1] and sum to 1; losses expect logits")
    return flags


def of_the_attack(attacked: Attacked) -> list[str]:
    """From what the attack met on its way."""
    flags, asked = [], int(attacked.gradients.sum())
    share = attacked.vanished.sum() / asked if asked else 0.0
    if share > VANISHED:
        flags.append(f"zero gradients: {share:.1%} of the {asked} gradients were exactly zero")
    white = [stage.access == "gradients" for stage in attacked.stages]
    late = sum(s.broken for i, s in enumerate(attacked.stages) if not white[i] and any(white[:i]))
    if late > BLACK_BOX * len(attacked.success):
        flags.append(f"masked gradients: black-box stages broke {late} images that white-box stages had left")
    return flags


def along_eps(key: jax.Array, model: Classifier, budget: Any, x: np.ndarray, y: np.ndarray) -> list[str]:
    """The margin that 10 steps of PGD reach should grow from a quarter to the whole of eps. The key is consumed."""
    if not hasattr(budget, "eps") or not len(y):
        return []
    x, y, ids = as_unit(x[:PROBES]), y[:PROBES], np.arange(min(len(y), PROBES))
    pgd, margins = build("attack", "pgd(steps=10, loss='margin')"), []
    for part in (0.25, 0.5, 1.0):
        smaller = budget.replace(eps=part * budget.eps)
        x_adv = attack_batch(stream(key, "probe"), pgd, model, smaller, x, y, ids)
        logits = predict(model, np.asarray(x_adv))
        others = np.where(np.arange(logits.shape[-1]) == y[:, None], -np.inf, logits).max(-1)
        margins.append(float(np.mean(others - logits[np.arange(len(y)), y])))
    if all(a < b for a, b in zip(margins, margins[1:], strict=False)):
        return []
    found = ", ".join(f"{margin:.3g}" for margin in margins)
    return [f"loss does not rise with eps: mean margins {found} at a quarter, a half and the whole of it"]
