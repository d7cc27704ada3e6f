"""bagging(alpha): a certificate against poisons for models trained on images drawn with replacement.

Reference: Jia, Cao & Gong, AAAI 2021, arXiv:2008.04495. It holds, with probability 1 - alpha an image, for the class
that most of all possible models vote for; bounds of the votes' shares are Clopper & Pearson's, one-sided, for all
classes at once (Bonferroni).
Let k images be drawn of n; after poisoning of n', of which m are as before. Draws from those m alone are the same under
both, (n / n')^k times as likely, and have the shares (m / n)^k and (m / n')^k. So the class of share p keeps a share of
at least (p - 1 + (m / n)^k) (n / n')^k, another one of share q gets at most q (n / n')^k + 1 - (m / n')^k, and the
class stays where p - q > 1 + (n' / n)^k - 2 (m / n)^k.
As elsewhere adding or removing an image counts 1, replacing one 2; a flipped label counts 1, and is the same to these
models as a replaced image. Of r poisons the worst are a added and r - a flipped ones, for some a.
Shapes: B images, M models, C classes.
"""

from functools import lru_cache

import numpy as np

from robustbench_jax.certify.partition import BUDGETS, ByVotes
from robustbench_jax.models.ensemble import Ensemble
from robustbench_jax.ops.statistics import clopper_pearson_lower
from robustbench_jax.registry import register
from robustbench_jax.types import UserError, record

SLACK = 1e-9  # of float64, in favour of no certificate


@register("certifier", "bagging", paper="jia2021", budgets=BUDGETS)
@record
class Bagging(ByVotes):
    """alpha: how likely the certificate of an image may be wrong."""

    alpha: float = 0.001
    trained_by = "bagged(models=200, draws=100)"

    def __post_init__(self):
        if not 0 < self.alpha < 1:
            raise UserError(f"bagging: alpha = {self.alpha} must be above 0 and below 1")

    def fits(self, net: Ensemble) -> bool:
        return bool(net.draws)

    def radii(self, logits: np.ndarray, net: Ensemble) -> tuple[np.ndarray, np.ndarray]:
        votes, classes = logits.argmax(-1), logits.shape[-1]
        counts = np.stack([np.bincount(each, minlength=classes) for each in votes])
        top = counts.argmax(-1)
        gaps = np.array([self.gap(own, label) for own, label in zip(counts, top, strict=True)])
        needs = needed(net.examples, net.draws)
        return top, np.searchsorted(needs, gaps - SLACK) - 1

    def gap(self, counts: np.ndarray, top: int) -> float:
        """A lower bound of the share of the class `top` less an upper bound of any other's, from the votes [C]."""
        models, alpha = int(counts.sum()), self.alpha / len(counts)
        low = _lower(int(counts[top]), models, alpha)
        high = max(1 - _lower(models - int(c), models, alpha) for label, c in enumerate(counts) if label != top)
        return low - min(high, 1 - low)


@lru_cache
def needed(examples: int, draws: int) -> np.ndarray:
    """By r = 0, 1, ...: the gap that must be exceeded for r poisons, up to a gap that there cannot be."""
    found = []
    while not found or found[-1] < 1:
        added = np.arange(len(found) + 1)
        flipped = len(found) - added
        kept = np.maximum(1 - flipped / examples, 0)
        found.append(float(np.max(1 + (1 + added / examples) ** draws - 2 * kept**draws)))
    return np.array(found)


@lru_cache
def _lower(successes: int, models: int, alpha: float) -> float:
    return clopper_pearson_lower(successes, models, alpha)
