"""What is done to the vectors before a rule sees them: nnm, bucketing, clipping, arc.

References: nearest-neighbour mixing: Allouah et al., AISTATS 2023, arXiv:2302.01772. Bucketing: Karimireddy, He &
Jaggi, ICLR 2022, arXiv:2006.09365. Adaptive robust clipping: Allouah et al., ICLR 2025, arXiv:2405.14432: the floor(2 f
/ n (n - f)) largest vectors are clipped to the size of the next one.
Shapes: n vectors of d numbers.
"""

from typing import Any

import jax
import jax.numpy as jnp

from robustbench_jax.keys import stream
from robustbench_jax.ops.aggregation.krum import squared_distances
from robustbench_jax.ops.aggregation.rule import Aggregation
from robustbench_jax.registry import register
from robustbench_jax.types import UserError, record, require_positive, static

TINY = 1e-12


class Before(Aggregation):
    """rule: what aggregates the vectors that `mixed` makes."""

    rule: Any

    def most(self, n: int) -> int:
        return self.rule.most(n)

    def check(self, n: int, f: int) -> None:
        self.rule.check(n, f)

    def mixed(self, key: jax.Array, vectors: jax.Array, f: int) -> jax.Array:
        raise NotImplementedError

    def aggregate(self, key: jax.Array, vectors: jax.Array, f: int, centre: jax.Array) -> jax.Array:
        return self.rule.aggregate(stream(key, "rule"), self.mixed(stream(key, "mix"), vectors, f), f, centre)


@register("aggregation", "nnm", paper="allouah2023", parts={"rule": "aggregation"})
@record
class NNM(Before):
    """Each vector becomes the mean of the n - f nearest to it, itself among them."""

    rule: Any

    def mixed(self, key: jax.Array, vectors: jax.Array, f: int) -> jax.Array:
        nearest = jnp.argsort(squared_distances(vectors), axis=1)[:, : len(vectors) - f]
        return jnp.mean(vectors[nearest], axis=1)


@register("aggregation", "bucketing", paper="karimireddy2022", parts={"rule": "aggregation"})
@record
class Bucketing(Before):
    """Means of buckets of `size` vectors, drawn anew each time; the last bucket may be smaller. All f Byzantine vectors
    may lie in buckets of their own, so the rule gets n / size vectors and the same f.
    """

    rule: Any
    size: int = static(default=2)

    def __post_init__(self):
        require_positive("bucketing", size=self.size)

    def most(self, n: int) -> int:
        return self.rule.most(-(-n // self.size))

    def check(self, n: int, f: int) -> None:
        if f > self.most(n):
            raise UserError(f"bucketing: f = {f} of {-(-n // self.size)} buckets of n = {n}; at most {self.most(n)}")

    def mixed(self, key: jax.Array, vectors: jax.Array, f: int) -> jax.Array:
        n = len(vectors)
        bucket = jnp.arange(n) // self.size
        sums = jax.ops.segment_sum(vectors[jax.random.permutation(key, n)], bucket, -(-n // self.size))
        return sums / jax.ops.segment_sum(jnp.ones(n), bucket, -(-n // self.size))[:, None]


@register("aggregation", "clipping", parts={"rule": "aggregation"})
@record
class Clipping(Before):
    """Vectors longer than `radius` are shortened to it."""

    rule: Any
    radius: float = 1.0

    def __post_init__(self):
        require_positive("clipping", radius=self.radius)

    def mixed(self, key: jax.Array, vectors: jax.Array, f: int) -> jax.Array:
        return shortened(vectors, self.radius)


@register("aggregation", "arc", paper="allouah2025", parts={"rule": "aggregation"})
@record
class ARC(Before):
    """Adaptive robust clipping: how far vectors are shortened depends on their sizes."""

    rule: Any

    def mixed(self, key: jax.Array, vectors: jax.Array, f: int) -> jax.Array:
        n = len(vectors)
        clipped = 2 * f * (n - f) // n
        sizes = jnp.sort(jnp.linalg.norm(vectors, axis=-1))
        return shortened(vectors, sizes[n - clipped - 1])


def shortened(vectors: jax.Array, radius: Any) -> jax.Array:
    sizes = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors * jnp.minimum(1.0, radius / jnp.maximum(sizes, TINY))
