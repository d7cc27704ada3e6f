"""Rules that choose vectors by their distances to others: krum, multi_krum, bulyan, mda.

References: Krum and Multi-Krum: Blanchard et al., NeurIPS 2017. A vector's score is the sum of squared distances to its
n - f - 2 nearest others, 2 f + 2 < n (ByzFL averages over n - f - 1 of them; Multi-Krum there keeps n - f). Bulyan: El
Mhamdi et al., ICML 2018, arXiv:1802.07927, n >= 4 f + 3. MDA, minimum diameter averaging: El Mhamdi et al., 2020,
arXiv:1905.03853 (after Rousseeuw, 1985).
Shapes: n vectors of d numbers.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.ops.aggregation.rule import Aggregation
from robustbench_jax.registry import register
from robustbench_jax.types import UserError, record

SUBSETS = 20_000  # that mda looks at


def squared_distances(vectors: jax.Array) -> jax.Array:
    """[n, n], from differences: products of large vectors would lose small distances."""
    return jax.vmap(lambda v: jnp.sum((vectors - v) ** 2, axis=-1))(vectors)


def krum_scores(away: jax.Array, f: int, there: jax.Array | None = None) -> jax.Array:
    """[n] from squared distances [n, n]; there bool [n]: the vectors that are left, all of them for None."""
    n = len(away)
    there = jnp.ones(n, bool) if there is None else there
    away = jnp.where(there[:, None] & there[None] & ~jnp.eye(n, dtype=bool), away, jnp.inf)
    nearest = jnp.sort(away, axis=1)
    counted = jnp.arange(n) < jnp.maximum(jnp.sum(there) - f - 2, 1)
    return jnp.where(there, jnp.sum(jnp.where(counted, nearest, 0.0), axis=1), jnp.inf)


@register("aggregation", "krum", paper="blanchard2017")
@record
class Krum(Aggregation):
    """The vector with the smallest score."""

    def most(self, n: int) -> int:
        return max((n - 3) // 2, 0)

    def aggregate(self, key: jax.Array, vectors: jax.Array, f: int, centre: jax.Array) -> jax.Array:
        return vectors[jnp.argmin(krum_scores(squared_distances(vectors), f))]


@register("aggregation", "multi_krum", paper="blanchard2017")
@record
class MultiKrum(Krum):
    """The mean of the n - f - 2 vectors with the smallest scores."""

    def aggregate(self, key: jax.Array, vectors: jax.Array, f: int, centre: jax.Array) -> jax.Array:
        order = jnp.argsort(krum_scores(squared_distances(vectors), f))
        return jnp.mean(vectors[order[: max(len(vectors) - f - 2, 1)]], axis=0)


@register("aggregation", "bulyan", paper="elmhamdi2018")
@record
class Bulyan(Aggregation):
    """Krum chooses n - 2 f vectors, one after another; of each coordinate, the mean of the n - 4 f values of these
    nearest to their median.
    """

    def most(self, n: int) -> int:
        return max((n - 3) // 4, 0)

    def aggregate(self, key: jax.Array, vectors: jax.Array, f: int, centre: jax.Array) -> jax.Array:
        n, away = len(vectors), squared_distances(vectors)
        there, chosen = jnp.ones(n, bool), []
        for _ in range(n - 2 * f):
            best = jnp.argmin(krum_scores(away, f, there))
            there = there.at[best].set(False)
            chosen.append(best)
        chosen = vectors[jnp.stack(chosen)]
        apart = jnp.abs(chosen - jnp.median(chosen, axis=0))
        nearest = jnp.argsort(apart, axis=0)[: n - 4 * f]
        return jnp.mean(jnp.take_along_axis(chosen, nearest, axis=0), axis=0)


@register("aggregation", "mda", paper="elmhamdi2020")
@record
class MDA(Aggregation):
    """The mean of those n - f vectors whose largest distance from one another is the smallest."""

    def check(self, n: int, f: int) -> None:
        super().check(n, f)
        if math.comb(n, f) > SUBSETS:
            raise UserError(f"mda: f = {f} of n = {n} are {math.comb(n, f):,} subsets; at most {SUBSETS:,}")

    def aggregate(self, key: jax.Array, vectors: jax.Array, f: int, centre: jax.Array) -> jax.Array:
        n, away = len(vectors), squared_distances(vectors)
        kept = jnp.asarray(np.array(list(itertools.combinations(range(n), n - f)), np.int32))
        diameters = jax.lax.map(lambda rows: jnp.max(away[rows][:, rows]), kept)
        return jnp.mean(vectors[kept[jnp.argmin(diameters)]], axis=0)
