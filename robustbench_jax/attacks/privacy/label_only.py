"""Attacks that see labels alone: label_noise(queries, sigma), label_shifts(pixels), label_boundary(rays, steps).

Reference: Choquette-Choo et al., ICML 2021, arXiv:2007.14321: members keep their class under more noise, and under more
of the shifts that training may have used. How many answers are right is the score. Members also lie farther from the
decision boundary (Li & Zhang, CCS 2021, arXiv:2007.15528).
Departs from the papers: label_boundary finds the boundary on straight lines to images of other classes, by bisection,
and takes the nearest; they search on from there by HopSkipJump, for some hundred times as many queries.
"""

import jax
import numpy as np

from robustbench_jax.attacks.privacy.lira import views
from robustbench_jax.keys import stream
from robustbench_jax.registry import register
from robustbench_jax.suspects import MembershipAttack, Suspects, Victim
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


@register("attack", "label_boundary", threat="membership", access="labels", paper="li2021labelonly")
@record
class LabelBoundary(MembershipAttack):
    """rays: images of the population that each image is moved to; steps: of bisection on each way."""

    rays: int = static(default=8)
    steps: int = static(default=8)

    def __post_init__(self):
        require_positive("label_boundary", rays=self.rays, steps=self.steps)

    def score(self, key: jax.Array, suspects: Suspects) -> np.ndarray:
        """The L2 distance, pixels from 0 to 1; 0 for images whose answer is wrong."""
        x, y, victim = suspects.data.x, suspects.data.y, suspects.victim
        right, said = suspects.own.argmax(-1) == y, victim.ask(suspects.population.x).argmax(-1)
        nearest = np.full(len(y), np.sqrt(x[0].size))  # where there is no other class, nothing lies farther
        for ray in range(self.rays):
            goal = drawn(jax.random.fold_in(stream(key, "rays"), ray), said, y)
            known = goal >= 0
            way = suspects.population.x[goal[known]].astype(np.float32) - x[known]
            share = bisected(victim, x[known], way, y[known], self.steps)
            length = np.sqrt(np.sum(way.reshape(len(way), -1) ** 2, -1)) / 255
            nearest[known] = np.minimum(nearest[known], share * length)
        return np.where(right, nearest, 0.0)


def drawn(key: jax.Array, said: np.ndarray, y: np.ndarray) -> np.ndarray:
    """int [N]: for each label y [N] one of the images that were said to be of another class, -1 where there is none."""
    out, coins = np.full(len(y), -1), np.asarray(jax.random.uniform(key, (len(y),)))
    for label in np.unique(y):
        others, mine = np.flatnonzero(said != label), y == label
        if len(others):
            out[mine] = others[np.minimum((coins[mine] * len(others)).astype(int), len(others) - 1)]
    return out


def bisected(victim: Victim, x: np.ndarray, way: np.ndarray, y: np.ndarray, steps: int) -> np.ndarray:
    """[N]: the share of the way [N, D] from x at which the answer ceases to be y, as it has at the end of the way."""
    low, high = np.zeros(len(y)), np.ones(len(y))
    for _ in range(steps):
        middle = (low + high) / 2
        at = np.clip(np.round(x + middle[:, None, None, None] * way), 0, 255).astype(np.uint8)
        same = victim.ask(at).argmax(-1) == y
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    return high
