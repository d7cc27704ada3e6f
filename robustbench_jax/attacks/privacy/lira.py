"""lira(variance), lira_offline(variance): the likelihood ratio of the victim's margin under models with and without.

Reference: Carlini et al., IEEE S&P 2022, arXiv:2112.03570. The margin log p_y - log(1 - p_y) is taken to be normal over
models trained with the image and over models trained without it; their means are medians over the shadow models.
variance: "global", one for all images, for each of the two sides (better for few shadow models; the reference code
takes that of the models trained with it for both), or "example", the image's own. Two shadow models, one a side, show
no variance at all: both forms then rank by the distances to the two margins.
Offline only models without the image are used, and the score is the one-sided tail of the paper; the reference code
scores by density, so that an uncommonly small margin counts as a member's.
With `shifts` the victim is asked about shifted images too, as training may have been, and scores are averaged.
Shapes: N images, M shadow models, V views.
"""

import jax
import numpy as np
from scipy.stats import norm

from robustbench_jax.registry import register
from robustbench_jax.suspects import MembershipAttack, Suspects, margin
from robustbench_jax.types import UserError, record, static

VARIANCES = ("global", "example")
TINY = 1e-6


class Likelihood(MembershipAttack):
    """variance, shifts: see the module."""

    variance: str
    shifts: int
    least = 2

    def __post_init__(self):
        name = self.registered[1]
        if self.variance not in VARIANCES:
            raise UserError(f"{name}: variance = {self.variance!r}; there are: {', '.join(VARIANCES)}")
        if self.shifts < 0:
            raise UserError(f"{name}: shifts = {self.shifts} must be at least 0")

    def ratio(self, own: np.ndarray, theirs: np.ndarray, members: np.ndarray) -> np.ndarray:
        """[N] from margins own [N], theirs [M, N] and members bool [M, N]."""
        raise NotImplementedError

    def score(self, key: jax.Array, suspects: Suspects) -> np.ndarray:
        y, total = suspects.data.y, 0.0
        for view in views(suspects.data.x, self.shifts):
            plain = view is suspects.data.x
            own = suspects.own if plain else suspects.victim.ask(view)
            theirs = suspects.theirs if plain else suspects.of_shadows(view)
            total = total + self.ratio(margin(own, y), margin(theirs, y), suspects.members)
        return total / (1 + 4 * self.shifts)


@register("attack", "lira", threat="membership", access="scores", paper="carlini2022")
@record
class LiRA(Likelihood):
    """Online: of the shadow models half were trained on each image."""

    variance: str = "global"
    shifts: int = static(default=0)

    def ratio(self, own: np.ndarray, theirs: np.ndarray, members: np.ndarray) -> np.ndarray:
        inside, outside = (fitted(theirs, of, self.variance) for of in (members, ~members))
        return norm.logpdf(own, *inside) - norm.logpdf(own, *outside)


@register("attack", "lira_offline", threat="membership", access="scores", paper="carlini2022")
@record
class LiRAOffline(Likelihood):
    """Of the shadow models only those that were not trained on the image are used."""

    variance: str = "global"
    shifts: int = static(default=0)

    def ratio(self, own: np.ndarray, theirs: np.ndarray, members: np.ndarray) -> np.ndarray:
        return -norm.logsf(own, *fitted(theirs, ~members, self.variance))


def fitted(theirs: np.ndarray, among: np.ndarray, variance: str) -> tuple[np.ndarray, np.ndarray]:
    """(median, standard deviation), each [N], of margins theirs [M, N] among bool [M, N]. ddof = 0, about the mean."""
    seen = np.where(among, theirs, np.nan)
    middle, each = np.nanmedian(seen, axis=0), np.nanstd(seen, axis=0)
    if variance == "global":
        count = among.sum(0)
        pooled = np.sqrt(np.sum(count * each**2) / max(np.sum(count - 1), 1))
        each = np.full_like(each, pooled)
    return middle, np.maximum(each, TINY)


def views(x: np.ndarray, shifts: int) -> list[np.ndarray]:
    """The images [N, D], and each moved by 1 to `shifts` pixels up, down, left and right, edges repeated."""
    out = [x]
    for by in range(1, shifts + 1):
        padded = np.pad(x, ((0, 0), (by, by), (by, by), (0, 0)), mode="edge")
        height, width = x.shape[1:3]
        for top, left in ((0, by), (2 * by, by), (by, 0), (by, 2 * by)):
            out.append(padded[:, top : top + height, left : left + width])
    return out
