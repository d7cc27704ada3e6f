"""caf: vectors are weighted down along the direction in which they spread most, until enough weight is gone.

Reference: Allouah, Guerraoui & Stephan, ICML 2025, arXiv:2505.01874 (covariance-bound agnostic filter). Of the weighted
means on the way, that of the smallest largest variance is taken. The largest variance and its direction come from the
matrix of inner products, n by n, exactly; ByzFL takes one step of power iteration from a random vector.
Shapes: n vectors of d numbers.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.ops.aggregation.rule import Aggregation
from robustbench_jax.registry import register
from robustbench_jax.types import record

TINY = 1e-30
ROUNDS = 200  # each takes weight away, a vector of the largest deviation all of its own


@register("aggregation", "caf", paper="allouah2025caf")
@record
class CAF(Aggregation):
    """Each round weighs vector i by 1 - t_i / max t, t the squares of its deviation along that direction, as long as
    the weights' sum is above n - 2 f.
    """

    def aggregate(self, key: jax.Array, vectors: jax.Array, f: int, centre: jax.Array) -> jax.Array:
        n = len(vectors)

        def spread(weights):
            """(mean [d], largest variance, squared deviations [n] along its direction)."""
            mean = weights @ vectors / jnp.sum(weights)
            apart = vectors - mean
            scaled = jnp.sqrt(weights)[:, None] * apart
            values, axes = jnp.linalg.eigh(scaled @ scaled.T / jnp.sum(weights))
            direction = axes[:, -1] @ scaled
            along = apart @ direction / jnp.maximum(jnp.linalg.norm(direction), TINY)
            return mean, values[-1], along**2

        def step(carry):
            weights, best, least, rounds = carry
            mean, variance, along = spread(weights)
            best = jnp.where(variance < least, mean, best)
            weights = weights * (1 - along / jnp.maximum(jnp.max(along), TINY))
            return jnp.clip(weights, 0.0, 1.0), best, jnp.minimum(least, variance), rounds + 1

        def goes_on(carry):
            weights, _, _, rounds = carry
            return (jnp.sum(weights) > n - 2 * f) & (rounds < ROUNDS)

        start = jnp.ones(n), jnp.mean(vectors, axis=0), jnp.inf, 0
        return jax.lax.while_loop(goes_on, step, start)[1]
