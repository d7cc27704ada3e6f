"""quantile_regression(): a margin that is uncommonly large for an image like this, judged by images not trained on.

Reference: Bertran et al., NeurIPS 2023, arXiv:2307.03694: no shadow models; on images that were not trained on, the
distribution of the victim's score is regressed on the image, and the attack's score is how far an image lies above it.
Departs from the paper: mean and logarithm of the variance are ridge regressions on the image's first principal
components and on its class, not networks trained on quantiles.
Shapes: N images, Z of the population, K components.
"""

import jax
import numpy as np

from robustbench_jax.registry import register
from robustbench_jax.suspects import MembershipAttack, Suspects, margin
from robustbench_jax.types import UserError, record, require_positive, static

LEAST_VARIANCE = 1e-4


@register("attack", "quantile_regression", threat="membership", access="scores", paper="bertran2023")
@record
class QuantileRegression(MembershipAttack):
    """components: principal ones of the population's images; ridge: of both regressions, on standardised features."""

    components: int = static(default=32)
    ridge: float = 1.0

    def __post_init__(self):
        require_positive("quantile_regression", ridge=self.ridge)
        if self.components < 1:
            raise UserError(f"quantile_regression: components = {self.components} must be at least 1")

    def score(self, key: jax.Array, suspects: Suspects) -> np.ndarray:
        data, others = suspects.data, suspects.population
        features = described(others.x, len(data.classes), self.components)
        seen, wanted = features(others.x, others.y), features(data.x, data.y)
        known = margin(suspects.victim.ask(others.x), others.y)
        mean = ridge_regression(seen, known, self.ridge)
        spread = ridge_regression(seen, np.log((known - seen @ mean) ** 2 + LEAST_VARIANCE), self.ridge)
        return (margin(suspects.own, data.y) - wanted @ mean) / np.exp(wanted @ spread / 2)


def described(x: np.ndarray, classes: int, components: int):
    """The map of images uint8 [N, D] and labels [N] to features [N, K + C], fitted on images x."""
    flat = x.reshape(len(x), -1) / 255.0
    centre = flat.mean(0)
    _, sizes, axes = np.linalg.svd(flat - centre, full_matrices=False)
    axes, scale = axes[:components], np.maximum(sizes[:components] / np.sqrt(len(x)), 1e-9)

    def of(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        along = (x.reshape(len(x), -1) / 255.0 - centre) @ axes.T / scale
        return np.concatenate([along, np.eye(classes)[y]], axis=1)

    return of


def ridge_regression(x: np.ndarray, y: np.ndarray, ridge: float) -> np.ndarray:
    """Weights [F] of y [N] on x [N, F]."""
    return np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ y)
