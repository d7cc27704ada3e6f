"""Attacks that see labels alone: label_noise(queries, sigma), label_shifts(pixels).

Reference: Choquette-Choo et al., ICML 2021, arXiv:2007.14321: members keep their class under more noise, and under more
of the shifts that training may have used. How many answers are right is the score.
"""

import jax
import numpy as np

from robustbench_jax.attacks.privacy.lira import views
from robustbench_jax.keys import stream
from robustbench_jax.registry import register
from robustbench_jax.suspects import MembershipAttack, Suspects
from robustbench_jax.types import record, require_positive, static


@register("attack", "label_noise", threat="membership", access="labels", paper="choquettechoo2021")
@record
class LabelNoise(MembershipAttack):
    """queries: noisy copies of each image; sigma: of the noise, pixels from 0 to 1."""

    queries: int = static(default=32)
    sigma: float = 0.1

    def __post_init__(self):
        require_positive("label_noise", queries=self.queries, sigma=self.sigma)

    def score(self, key: jax.Array, suspects: Suspects) -> np.ndarray:
        x, y = suspects.data.x, suspects.data.y
        right = np.zeros(len(y))
        for copy in range(self.queries):
            noise = jax.random.normal(jax.random.fold_in(stream(key, "noise"), copy), x.shape) * self.sigma * 255
            noisy = np.clip(np.round(x + np.asarray(noise)), 0, 255).astype(np.uint8)
            right += suspects.victim.ask(noisy).argmax(-1) == y
        return right / self.queries


@register("attack", "label_shifts", threat="membership", access="labels", paper="choquettechoo2021")
@record
class LabelShifts(MembershipAttack):
    """pixels: the largest shift; images are moved up, down, left and right by each number of pixels."""

    pixels: int = static(default=2)

    def __post_init__(self):
        require_positive("label_shifts", pixels=self.pixels)

    def score(self, key: jax.Array, suspects: Suspects) -> np.ndarray:
        y = suspects.data.y
        right = [suspects.victim.ask(view).argmax(-1) == y for view in views(suspects.data.x, self.pixels)]
        return np.mean(right, axis=0)
