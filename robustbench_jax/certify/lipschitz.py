"""lipschitz: the margin of the logits, divided by how fast it can change.

Reference: Tsuzuku et al., NeurIPS 2018, arXiv:1802.04034; by pairs of classes as in Leino et al., ICML 2021,
arXiv:2102.08452. L2 radius = min over j of (f_y - f_j) / L_yj, with an upper bound L_yj of the Lipschitz constant of
f_y - f_j that is computed from the weights in float64 (models/lipschitz_bounds.py). In Linf ||d||_2 <= sqrt(D)
||d||_inf,
so the radius is that of L2 over sqrt(D), which is loose; in L1 ||d||_2 <= ||d||_1, so it is at least that of L2.
Rounding: the margin must exceed ROUNDING times the largest logit, or times 1; the float32 forward pass is taken to be
that exact, at both ends. The constant is checked on images: should a gradient of the deployed model ever be longer
than it allows, nothing is certified and the result is flagged.
Shapes: B images, D input shape, C classes.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from robustbench_jax.models.lipschitz_bounds import pair_constants
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.judge import predict, require_finite
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import register
from robustbench_jax.types import Certificate, Certifier, Classifier, UserError, record

ROUNDING = 2e-5
LOOKS = 8  # images whose gradients are compared with the constant
BUDGETS = ("l2", "linf", "l1")


@register("certifier", "lipschitz", paper="tsuzuku2018", budgets=BUDGETS)
@record
class LipschitzMargin(Certifier):
    """The cost of one forward pass; tight for networks that are 1-Lipschitz by construction."""

    def certify(
        self,
        key: jax.Array,
        model: Classifier,
        x: np.ndarray,
        y: np.ndarray,
        budget: Any,
        *,
        ids: np.ndarray,
        runtime: Runtime,
        report: Callable[[int], None] = lambda settled: None,
    ) -> Certificate:
        """As Certifier says; radius float64 [B], 0 where the image is classified wrongly; margin: of the whole budget.

        evidence: lipschitz float64 [B], the constant of the pair of classes that limits the radius. Raises UserError
        for
        another budget, for randomised models and for architectures whose constant is not known.
        """
        longer = stretch(budget, math.prod(x.shape[1:]))
        if model.stochastic:
            raise UserError("lipschitz: the model is randomised; margins are of deterministic ones")
        pairs = pair_constants(model)
        if not len(x):
            return Certificate.empty(0)
        logits = predict(model, x, runtime).astype(np.float64)
        require_finite(logits, "the model's logits")
        gaps, rates = margins(logits, np.asarray(y), pairs)
        radius, limit = least(gaps, rates)
        radius = np.maximum(radius, 0.0) / longer
        eps = float(budget.eps)
        sound = steepest(model, x[:LOOKS], pairs) <= 1 + 1e-4
        report(len(x))
        return Certificate(
            certified=(radius >= eps) & (radius > 0) & sound,
            prediction=logits.argmax(-1),
            margin=(gaps - rates * eps * longer).min(-1),
            radius=radius if sound else np.full(len(x), np.nan),
            counts={"gradient_evaluations": min(len(x), LOOKS) * logits.shape[-1], "forward_evaluations": len(x)},
            flags=() if sound else ("a gradient is longer than the Lipschitz constant: nothing is certified",),
            evidence={"lipschitz": np.take_along_axis(rates, limit[:, None], 1)[:, 0]},
        )


def stretch(budget: Any, dimensions: int) -> float:
    """How much longer, in L2, a step of length 1 in the budget's norm can be."""
    name = getattr(budget, "registered", ("", type(budget).__name__))[1]
    if name not in BUDGETS:
        raise UserError(f"lipschitz certifies {', '.join(BUDGETS)}; got {name}")
    return math.sqrt(dimensions) if name == "linf" else 1.0


def margins(logits: np.ndarray, y: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gaps f_y - f_j less rounding, and their rates L_yj, [B, C - 1] each, over the other classes j."""
    slack = ROUNDING * np.maximum(np.abs(logits).max(-1, keepdims=True), 1.0)
    gaps = np.take_along_axis(logits, y[:, None], 1) - logits - slack
    others = np.arange(logits.shape[1]) != y[:, None]
    shape = (len(y), logits.shape[1] - 1)
    return gaps[others].reshape(shape), pairs[y][others].reshape(shape)


def least(gaps: np.ndarray, rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The smallest gap / rate [B], and at which class; a gap that never changes limits nothing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.where(rates > 0, gaps / rates, np.where(gaps > 0, np.inf, -np.inf))
    limit = distance.argmin(-1)
    return np.take_along_axis(distance, limit[:, None], 1)[:, 0], limit


def steepest(model: Classifier, x: np.ndarray, pairs: np.ndarray) -> float:
    """The longest gradient of a difference of logits at images x [B, D], as a multiple of what `pairs` allows."""
    slopes = np.asarray(_slopes(model, as_unit(x)), np.float64).reshape(len(x), len(pairs), -1)
    apart = np.linalg.norm(slopes[:, :, None] - slopes[:, None], axis=-1)
    return float((apart / np.where(pairs > 0, pairs, np.inf)).max())


@jax.jit
def _slopes(model: Classifier, x: jax.Array) -> jax.Array:
    return jax.vmap(jax.jacrev(model))(x)
