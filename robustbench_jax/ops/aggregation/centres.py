"""Rules that look for a centre: geometric_median, centred_clipping.

References: geometric median by smoothed Weiszfeld steps: Pillutla, Kakade & Harchaoui, 2022, arXiv:1912.13445 (RFA);
from the mean, until the last step is small. Centred clipping: Karimireddy, He & Jaggi, ICML 2021, arXiv:2012.10333: the
last aggregate, moved by the mean of the clipped differences; a difference of zero is not divided by its norm.
Shapes: n vectors of d numbers.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.ops.aggregation.rule import Aggregation
from robustbench_jax.registry import register
from robustbench_jax.types import record, require_positive, static

TINY = 1e-12


@register("aggregation", "geometric_median", paper="pillutla2022")
@record
class GeometricMedian(Aggregation):
    """steps: at most; tolerance: of the last step, as a share of the mean distance."""

    steps: int = static(default=100)
    tolerance: float = 1e-6

    def __post_init__(self):
        require_positive("geometric_median", steps=self.steps)

    def aggregate(self, key: jax.Array, vectors: jax.Array, f: int, centre: jax.Array) -> jax.Array:
        def step(carry):
            at, _, count = carry
            away = jnp.linalg.norm(vectors - at, axis=-1)
            weights = 1 / jnp.maximum(away, TINY + 1e-7 * jnp.mean(away))
            moved = weights @ vectors / jnp.sum(weights)
            size = jnp.linalg.norm(moved - at) / (jnp.mean(away) + TINY)
            return moved, size, count + 1

        start = jnp.mean(vectors, axis=0), jnp.inf, 0
        return jax.lax.while_loop(lambda c: (c[1] > self.tolerance) & (c[2] < self.steps), step, start)[0]


@register("aggregation", "centred_clipping", paper="karimireddy2021")
@record
class CentredClipping(Aggregation):
    """radius: to which differences are clipped; steps: in each round, from the last aggregate."""

    radius: float = 10.0
    steps: int = static(default=3)

    def __post_init__(self):
        require_positive("centred_clipping", radius=self.radius, steps=self.steps)

    def aggregate(self, key: jax.Array, vectors: jax.Array, f: int, centre: jax.Array) -> jax.Array:
        for _ in range(self.steps):
            apart = vectors - centre
            sizes = jnp.linalg.norm(apart, axis=-1, keepdims=True)
            centre = centre + jnp.mean(apart * jnp.minimum(1.0, self.radius / jnp.maximum(sizes, TINY)), axis=0)
        return centre
