"""What aggregation rules are, and those that work coordinate by coordinate.

References: mean; coordinate_median and trimmed_mean: Yin et al., ICML 2018, arXiv:1803.01498; meamed (mean around the
median): Xie et al., 2018, arXiv:1802.10116.
Shapes: n vectors of d numbers, f of them Byzantine. f is a whole number, not traced: it decides how many are kept.
"""

from typing import Any

import jax
import jax.numpy as jnp

from robustbench_jax.registry import register
from robustbench_jax.types import UserError, record


class Aggregation:
    """What a registered rule is."""

    registered: tuple[str, str]
    facts: dict[str, Any]

    def most(self, n: int) -> int:
        """The largest number of Byzantine vectors among n for which the rule promises anything."""
        return (n - 1) // 2

    def aggregate(self, key: jax.Array, vectors: jax.Array, f: int, centre: jax.Array) -> jax.Array:
        """One vector [d] of vectors [n, d]. centre [d]: the last aggregate, zero at first. The key is consumed."""
        raise NotImplementedError

    def check(self, n: int, f: int) -> None:
        """UserError for more Byzantine vectors than the rule is made for."""
        if not 0 <= f <= self.most(n):
            raise UserError(f"{self.registered[1]}: f = {f} of n = {n}; at most {self.most(n)}")


@register("aggregation", "mean")
@record
class Mean(Aggregation):
    """No defence: one vector can move it anywhere."""

    def most(self, n: int) -> int:
        return n - 1

    def aggregate(self, key: jax.Array, vectors: jax.Array, f: int, centre: jax.Array) -> jax.Array:
        return jnp.mean(vectors, axis=0)


@register("aggregation", "coordinate_median", paper="yin2018")
@record
class CoordinateMedian(Aggregation):
    """The median of each coordinate; of an even number the mean of the middle two (PyTorch takes the lower one)."""

    def aggregate(self, key: jax.Array, vectors: jax.Array, f: int, centre: jax.Array) -> jax.Array:
        return jnp.median(vectors, axis=0)


@register("aggregation", "trimmed_mean", paper="yin2018")
@record
class TrimmedMean(Aggregation):
    """The mean of each coordinate without its f smallest and f largest values; 2 f < n."""

    def aggregate(self, key: jax.Array, vectors: jax.Array, f: int, centre: jax.Array) -> jax.Array:
        n = len(vectors)
        return jnp.mean(jnp.sort(vectors, axis=0)[f : n - f], axis=0)


@register("aggregation", "meamed", paper="xie2018byzantine")
@record
class MeaMed(Aggregation):
    """The mean of the n - f values of each coordinate that are nearest to its median."""

    def aggregate(self, key: jax.Array, vectors: jax.Array, f: int, centre: jax.Array) -> jax.Array:
        away = jnp.abs(vectors - jnp.median(vectors, axis=0))
        nearest = jnp.argsort(away, axis=0)[: len(vectors) - f]
        return jnp.mean(jnp.take_along_axis(vectors, nearest, axis=0), axis=0)
