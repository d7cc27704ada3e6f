"""subpopulation(): wrong labels for one kind of image, so that the model errs on those and on few others.

Reference: Jagielski et al., CCS 2021, arXiv:2006.14026, ClusterMatch with label flips: training images are clustered by
the features of a surrogate, one cluster is chosen, and copies of its images are added with one wrong label: the one
that the surrogate thinks likeliest there after the right one.
Departs from the paper: features are not reduced by principal components first; the cluster is drawn by key, not chosen
for its success.
Shapes: N images, F features, K clusters.
"""

from typing import Any

import jax
import numpy as np

from robustbench_jax.keys import stream
from robustbench_jax.models.features import features_of, logits_of
from robustbench_jax.poisons import PoisonedDataset, PoisoningAttack, Subpopulation, added, untouched
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, UserError, record, static

ROUNDS = 30  # of k-means, at most


@record
class Cluster(Subpopulation):
    """Images whose features by `model` are nearer to centre number `own` than to any other of centres [K, F]."""

    model: Classifier
    centres: Any
    own: int

    def members(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return nearest(features_of(self.model, x), self.centres) == self.own


@register("attack", "subpopulation", threat="poisoning", access="poison_only", paper="jagielski2021")
@record
class SubpopulationAttack(PoisoningAttack):
    """clusters: how many the training images fall into; each image of the one that is drawn may be copied often."""

    clusters: int = static(default=30)
    goal = "availability"
    references = 1

    def __post_init__(self):
        if self.clusters < 2:
            raise UserError(f"subpopulation: clusters = {self.clusters} must be at least 2")

    def poison(
        self, key: jax.Array, data: Dataset, count: int, references: tuple[Classifier, ...] = ()
    ) -> PoisonedDataset:
        if not count:
            return untouched(data)
        model, seen = references[0], features_of(references[0], data.x)
        centres = k_means(stream(key, "centres"), seen, self.clusters)
        of = nearest(seen, centres)
        own = int(of[int(jax.random.randint(stream(key, "cluster"), (), 0, len(data)))])
        inside = np.flatnonzero(of == own)
        right = np.bincount(data.y[inside]).argmax()
        likely = logits_of(model, data.x[inside]).mean(0)
        likely[right] = -np.inf
        rows = np.asarray(jax.random.permutation(stream(key, "rows"), inside))
        rows = np.resize(rows[data.y[rows] == right], count)
        flag = f"{len(inside)} training images are of the subpopulation, mostly of class {right}"
        wrong = np.full(count, likely.argmax())
        return added(data, data.x[rows], wrong, flags=(flag,), subpopulation=Cluster(model, centres, own))


def k_means(key: jax.Array, points: np.ndarray, count: int) -> np.ndarray:
    """float64 [K, F]: centres of points [N, F], K of them or as many as there are points. A cluster that loses its
    points keeps its centre.
    """
    order = np.asarray(jax.random.permutation(key, len(points)))
    centres = points[order[:count]].copy()
    of = None
    for _ in range(ROUNDS):
        now = nearest(points, centres)
        if of is not None and np.array_equal(now, of):
            break
        of = now
        for own in np.unique(of):
            centres[own] = points[of == own].mean(0)
    return centres


def nearest(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """int [N]: the centre [K, F] nearest to each of points [N, F]; of equally near ones the first."""
    return np.argmin(np.sum(centres**2, -1) - 2 * points @ centres.T, axis=-1)
