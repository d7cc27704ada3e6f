"""rmia(gamma), rmia_offline(a, gamma): how many images of the population the victim knows less well than this one.

Reference: Zarifzadeh, Liu & Shokri, ICML 2024, arXiv:2312.03262. The score is the share of images z of the population
with [p(x | victim) / p(x)] / [p(z | victim) / p(z)] >= gamma, where p of an image is the mean over shadow models, half
of which were trained on it. Offline p(x) is estimated from those that were not: ((1 + a) p_out + 1 - a) / 2.
No shadow model was trained on any z. Probabilities come from logits in float64; some published code takes the models
of largest probability for those without the image.
Shapes: N images, Z of the population, M shadow models.
"""

import jax
import numpy as np

from robustbench_jax.registry import register
from robustbench_jax.suspects import MembershipAttack, Suspects, log_probability
from robustbench_jax.types import UserError, record, require_positive


class Relative(MembershipAttack):
    """gamma: by how much better an image must be known."""

    gamma: float
    least = 2

    def expected(self, log_theirs: np.ndarray, members: np.ndarray) -> np.ndarray:
        """log p(x) [N] from log-probabilities [M, N] of the shadow models."""
        raise NotImplementedError

    def score(self, key: jax.Array, suspects: Suspects) -> np.ndarray:
        data, population = suspects.data, suspects.population
        own = log_probability(suspects.own, data.y)
        ratio = own - self.expected(log_probability(suspects.theirs, data.y), suspects.members)
        theirs = log_probability(suspects.of_shadows(population.x), population.y)
        asked = log_probability(suspects.victim.ask(population.x), population.y)
        base = np.sort(asked - self.expected(theirs, np.zeros(theirs.shape, bool)))
        share = np.searchsorted(base, ratio - np.log(self.gamma), side="right") / len(base)
        return share + 1e-9 * np.tanh(ratio / 100)  # what no z tells apart is told apart by its own ratio


@register("attack", "rmia", threat="membership", access="scores", paper="zarifzadeh2024")
@record
class RMIA(Relative):
    """Online."""

    gamma: float = 2.0

    def __post_init__(self):
        require_positive("rmia", gamma=self.gamma)

    def expected(self, log_theirs: np.ndarray, members: np.ndarray) -> np.ndarray:
        sides = [mean(log_theirs, of) for of in (members, ~members) if of.any()]
        return np.log(np.mean(sides, axis=0))


@register("attack", "rmia_offline", threat="membership", access="scores", paper="zarifzadeh2024")
@record
class RMIAOffline(Relative):
    """a: how p(x) follows from models without the image; the paper has 0.33 for CIFAR-10. It is not tuned here."""

    a: float = 0.33
    gamma: float = 2.0

    def __post_init__(self):
        require_positive("rmia_offline", gamma=self.gamma)
        if not 0 <= self.a <= 1:
            raise UserError(f"rmia_offline: a = {self.a} must be from 0 to 1")

    def expected(self, log_theirs: np.ndarray, members: np.ndarray) -> np.ndarray:
        return np.log(((1 + self.a) * mean(log_theirs, ~members) + 1 - self.a) / 2)


def mean(logs: np.ndarray, among: np.ndarray) -> np.ndarray:
    """[N]: the mean of exp(logs [M, N]) among bool [M, N]; at least 1e-300."""
    return np.maximum(np.sum(np.exp(logs) * among, 0) / np.maximum(among.sum(0), 1), 1e-300)
