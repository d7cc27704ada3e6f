"""adaptive_knockoff(): which kinds of images are asked about is learnt from the answers, as a bandit learns.

Reference: Knockoff Nets, Orekondy et al., CVPR 2019, arXiv:1812.02766, section 4.2.2: a gradient bandit over the
classes of the thief's own images, rewarded for certain answers, for answers unlike those before, and for images that
the clone does not know yet.
Departs from the paper: the policy and the clone are updated in rounds, not after every image, and the kinds are the
labels of the thief's images as they are, without a hierarchy. These labels are of his images, not the victim's.
Shapes: n images of a round, K kinds, C classes.
"""

import jax
import numpy as np
from scipy.special import log_softmax, softmax

from robustbench_jax.attacks.extraction.cloning import Cloning
from robustbench_jax.keys import generator, stream
from robustbench_jax.models.features import logits_of
from robustbench_jax.registry import register
from robustbench_jax.thefts import Oracle
from robustbench_jax.types import Classifier, Dataset, record, require_positive, static


@register(
    "attack",
    "adaptive_knockoff",
    threat="extraction",
    access="scores",
    paper="orekondy2019",
    parts={"recipe": "recipe"},
)
@record
class AdaptiveKnockoff(Cloning):
    """rounds: between which a clone is trained and the policy moves; rate: how far, by each image's reward."""

    rounds: int = static(default=5)
    rate: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        require_positive("adaptive_knockoff", rounds=self.rounds, rate=self.rate)

    def collect(self, key: jax.Array, oracle: Oracle, pool: Dataset) -> tuple[np.ndarray, np.ndarray]:
        kinds = np.unique(pool.y, return_inverse=True)[1]
        preference, clone = np.zeros(kinds.max() + 1), None
        x, answers, total = pool.x[:0], None, oracle.left
        sizes = np.diff(np.linspace(0, total, min(self.rounds, total) + 1).astype(int))
        unseen = np.ones(len(pool), bool)
        for number, size in enumerate(sizes):
            own = jax.random.fold_in(key, number)
            rows = drawn_by(generator(own), softmax(preference), kinds, unseen, size)
            said = oracle.ask(pool.x[rows])
            if number:
                preference = moved(preference, kinds[rows], rewards(said, answers, clone, pool.x[rows]), self.rate)
            x, answers = np.concatenate([x, pool.x[rows]]), said if answers is None else np.concatenate([answers, said])
            if number + 1 < len(sizes):
                clone = self.clone(stream(own, "clone"), x, answers, pool)
        return x, answers


def drawn_by(random: np.random.Generator, policy: np.ndarray, kinds: np.ndarray, unseen: np.ndarray, size: int):
    """int [size]: rows of kinds [N], by the policy [K], new ones as long as there are; marks them in unseen [N]."""
    rows = []
    for kind, count in enumerate(random.multinomial(size, policy)):
        of_kind = np.flatnonzero(kinds == kind)
        new = random.permutation(of_kind[unseen[of_kind]])[:count]
        unseen[new] = False
        rows += [new, random.choice(of_kind, count - len(new))] if count > len(new) else [new]
    return np.concatenate(rows)


def rewards(said: np.ndarray, before: np.ndarray, clone: Classifier, x: np.ndarray) -> np.ndarray:
    """float [n]: certainty, diversity and the clone's loss, each scaled to mean 0 and deviation 1 and averaged.

    said [n, C]: answers to x; before: all earlier ones; an image without an answer earns the least.
    """
    known = ~np.isnan(said).any(-1)
    said = np.where(known[:, None], said, 1 / said.shape[1])
    top = np.sort(said, -1)
    certain = top[:, -1] - top[:, -2]
    unlike = np.maximum(0, said - np.nanmean(before, 0)).sum(-1)
    loss = -np.sum(said * log_softmax(logits_of(clone, x), -1), -1)
    found = np.mean([(it - it.mean()) / max(it.std(), 1e-9) for it in (certain, unlike, loss)], 0)
    return np.where(known, found, found.min())


def moved(preference: np.ndarray, kinds: np.ndarray, reward: np.ndarray, rate: float) -> np.ndarray:
    """float [K]: the gradient bandit's step for all images of a round at once (Sutton & Barto, section 2.8)."""
    away = np.eye(len(preference))[kinds] - softmax(preference)
    return preference + rate * np.mean((reward - reward.mean())[:, None] * away, 0)
