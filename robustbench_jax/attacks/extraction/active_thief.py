"""active_thief(strategy): a clone of what is known so far says which images to ask about next.

Reference: ActiveThief, Pal et al., AAAI 2020: after a random start, each round asks about the images that the clone is
least certain of (uncertainty), those furthest from what was asked (k_center, in the clone's probabilities), or the
second among the first (uncertainty_k_center). k-center: Sener & Savarese, ICLR 2018, arXiv:1708.00489, greedy.
Departs from the paper: no images are kept for validation, and the adversarial strategy (DFAL) is not here.
Shapes: N images of the pool, n of a round, C classes.
"""

import jax
import numpy as np
from scipy.special import softmax

from robustbench_jax.attacks.extraction.cloning import Cloning, drawn
from robustbench_jax.keys import stream
from robustbench_jax.models.features import logits_of
from robustbench_jax.registry import nearest, register
from robustbench_jax.thefts import Oracle
from robustbench_jax.types import Dataset, UserError, record, require_positive, static

STRATEGIES = ("uncertainty", "k_center", "uncertainty_k_center")
WIDER = 4  # times as many as are asked about pass the first of two strategies


@register("attack", "active_thief", threat="extraction", access="scores", paper="pal2020", parts={"recipe": "recipe"})
@record
class ActiveThief(Cloning):
    """strategy: see STRATEGIES. rounds: after the start; start: its share of the budget."""

    strategy: str = static(default="uncertainty_k_center")
    rounds: int = static(default=5)
    start: float = static(default=0.2)

    def __post_init__(self):
        super().__post_init__()
        require_positive("active_thief", rounds=self.rounds)
        if self.strategy not in STRATEGIES:
            raise UserError(f"active_thief: strategy = {self.strategy!r}{nearest(self.strategy, STRATEGIES)}")
        if not 0 < self.start < 1:
            raise UserError(f"active_thief: start = {self.start} must be above 0 and below 1")

    def collect(self, key: jax.Array, oracle: Oracle, pool: Dataset) -> tuple[np.ndarray, np.ndarray]:
        total = min(oracle.left, len(pool))
        first = max(1, round(self.start * total))
        asked = drawn(stream(key, "start"), first, len(pool))
        answers = oracle.ask(pool.x[asked])
        for number, size in enumerate(np.diff(np.linspace(first, total, self.rounds + 1).astype(int))):
            if size:
                clone = self.clone(jax.random.fold_in(stream(key, "clone"), number), pool.x[asked], answers, pool)
                rows = self.chosen(softmax(logits_of(clone, pool.x), -1), asked, size)
                answers = np.concatenate([answers, oracle.ask(pool.x[rows])])
                asked = np.concatenate([asked, rows])
        return pool.x[asked], answers

    def chosen(self, said: np.ndarray, asked: np.ndarray, size: int) -> np.ndarray:
        """int [size]: rows of what the clone said [N, C] that were not asked about."""
        open_rows = np.setdiff1d(np.arange(len(said)), asked)
        if self.strategy != "k_center":
            unsure = np.argsort(-entropy(said[open_rows]), kind="stable")
            open_rows = open_rows[unsure[: size if self.strategy == "uncertainty" else WIDER * size]]
        if self.strategy == "uncertainty":
            return open_rows
        return open_rows[k_center(said[open_rows], said[asked], size)]


def entropy(said: np.ndarray) -> np.ndarray:
    """float [N], of probabilities [N, C]."""
    return -np.sum(said * np.log(np.maximum(said, 1e-12)), -1)


def k_center(points: np.ndarray, centres: np.ndarray, count: int) -> np.ndarray:
    """int [count]: points [N, C], each the furthest from the centres [M, C] and those chosen before it."""
    away = np.full(len(points), np.inf)
    for part in np.array_split(centres, -(-len(centres) // 256)):
        away = np.minimum(away, np.sum((points[:, None] - part[None]) ** 2, -1).min(-1))
    found = []
    for _ in range(count):
        found.append(int(np.argmax(away)))
        away = np.minimum(away, np.sum((points - points[found[-1]]) ** 2, -1))
        away[found[-1]] = -1.0
    return np.array(found, int)
