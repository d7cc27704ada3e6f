"""Lies as large as distances between honest vectors allow: min_max, min_sum.

Reference: Shejwalkar & Houmansadr, NDSS 2021 (Manipulating the Byzantine), the attacks that know no rule. All f send
the honest mean plus gamma times a direction, gamma the largest for which the lie is no farther from any honest vector
than two of these are from one another (min_max), or its summed squared distances are no larger than those of an honest
one (min_sum). Both limits are convex in gamma and hold at 0, so that bisection finds the largest; the published search
steps up and down from a start and may end short of it.
Shapes: h honest vectors of d numbers, f sent.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from robustbench_jax.federation import ByzantineAttack
from robustbench_jax.ops.aggregation.krum import squared_distances
from robustbench_jax.registry import register
from robustbench_jax.types import UserError, record

DIRECTIONS = ("deviation", "mean", "sign")
HALVINGS = 40


class ByDistance(ByzantineAttack):
    """direction: minus the standard deviation of each coordinate, the unit mean, or the mean's signs."""

    direction: str

    def __post_init__(self):
        if self.direction not in DIRECTIONS:
            raise UserError(f"{self.registered[1]}: direction = {self.direction!r}; there are: {', '.join(DIRECTIONS)}")

    def inside(self, lie: jax.Array, honest: jax.Array, away: jax.Array) -> jax.Array:
        """Whether the lie [d] is within the limit; away [h, h]: squared distances of the honest vectors."""
        raise NotImplementedError

    def send(self, key: jax.Array, honest: jax.Array, f: int, aggregate: Callable) -> jax.Array:
        mean, away = jnp.mean(honest, axis=0), squared_distances(honest)
        size = jnp.linalg.norm(mean)
        directions = {
            "deviation": -jnp.std(honest, axis=0),
            "mean": -mean / jnp.maximum(size, 1e-30),
            "sign": -jnp.sign(mean),
        }
        direction = directions[self.direction]
        longest = 2 * jnp.sqrt(jnp.max(away)) / jnp.maximum(jnp.linalg.norm(direction), 1e-30)

        def halve(_, ends):
            low, high = ends
            middle = (low + high) / 2
            fits = self.inside(mean + middle * direction, honest, away)
            return jnp.where(fits, middle, low), jnp.where(fits, high, middle)

        gamma, _ = jax.lax.fori_loop(0, HALVINGS, halve, (jnp.zeros(()), longest))
        return jnp.tile(mean + gamma * direction, (f, 1))


@register("attack", "min_max", threat="byzantine", access="gradients", paper="shejwalkar2021")
@record
class MinMax(ByDistance):
    """No farther from any honest vector than the two farthest are from one another."""

    direction: str = "deviation"

    def inside(self, lie: jax.Array, honest: jax.Array, away: jax.Array) -> jax.Array:
        return jnp.max(jnp.sum((honest - lie) ** 2, axis=-1)) <= jnp.max(away)


@register("attack", "min_sum", threat="byzantine", access="gradients", paper="shejwalkar2021")
@record
class MinSum(ByDistance):
    """Squared distances to the honest vectors sum to no more than those of the honest one of the largest sum."""

    direction: str = "deviation"

    def inside(self, lie: jax.Array, honest: jax.Array, away: jax.Array) -> jax.Array:
        return jnp.sum((honest - lie) ** 2) <= jnp.max(jnp.sum(away, axis=-1))
