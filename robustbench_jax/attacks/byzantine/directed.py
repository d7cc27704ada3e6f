"""Lies along one direction, of a fixed size or of the size that hurts the server's rule most: ipm, alie and optimised.

References: inner-product manipulation: Xie, Koyejo & Gupta, UAI 2019, arXiv:1903.03936: minus tau times the honest
mean. A Little Is Enough: Baruch, Baruch & Goldberg, NeurIPS 2019, arXiv:1902.06156: the honest mean less z standard
deviations, z the largest for which enough honest clients lie farther out: with s = floor(n / 2 + 1) - f, the normal
quantile of (n - f - s) / (n - f). Searching the size with the rule in hand: Shejwalkar & Houmansadr, NDSS 2021.
Shapes: h honest vectors of d numbers, f sent.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from scipy.stats import norm

from robustbench_jax.federation import ByzantineAttack
from robustbench_jax.registry import register
from robustbench_jax.types import record, require_positive, static


@register("attack", "ipm", threat="byzantine", access="gradients", paper="xie2019ipm")
@record
class IPM(ByzantineAttack):
    """tau: of minus the honest mean; 0 for the size, out of `sizes` up to 10, that moves the aggregate farthest."""

    tau: float = 3.0
    sizes: int = static(default=16)

    def __post_init__(self):
        require_positive("ipm", sizes=self.sizes)

    def send(self, key: jax.Array, honest: jax.Array, f: int, aggregate: Callable) -> jax.Array:
        mean = jnp.mean(honest, axis=0)
        sizes = jnp.linspace(0.1, 10.0, self.sizes) + 1.0
        size = jax.lax.cond(
            self.tau == 0, lambda: _worst(honest, f, aggregate, -mean, sizes), lambda: jnp.asarray(self.tau) + 1.0
        )
        return jnp.tile(mean - size * mean, (f, 1))


@register("attack", "alie", threat="byzantine", access="gradients", paper="baruch2019")
@record
class ALIE(ByzantineAttack):
    """z: standard deviations; 0 for the paper's; -1 for the one, out of `sizes` up to 5, that moves the aggregate
    farthest.
    """

    z: float = 0.0
    sizes: int = static(default=16)

    def __post_init__(self):
        require_positive("alie", sizes=self.sizes)

    def send(self, key: jax.Array, honest: jax.Array, f: int, aggregate: Callable) -> jax.Array:
        mean, deviation = jnp.mean(honest, axis=0), jnp.std(honest, axis=0, ddof=1)
        sizes, plain = jnp.linspace(0.1, 5.0, self.sizes), little_enough(len(honest) + f, f)
        z = jax.lax.cond(
            self.z < 0,
            lambda: _worst(honest, f, aggregate, -deviation, sizes),
            lambda: jnp.where(self.z == 0, plain, self.z),
        )
        return jnp.tile(mean - z * deviation, (f, 1))


def little_enough(n: int, f: int) -> float:
    """The paper's z; 0 where no honest client need lie farther out."""
    supporters = n // 2 + 1 - f
    share = (n - f - supporters) / (n - f)
    return max(float(norm.ppf(min(max(share, 0.5), 1 - 1e-6))), 0.0)


def _worst(honest: jax.Array, f: int, aggregate: Callable, direction: jax.Array, sizes: jax.Array) -> jax.Array:
    """The size for which the aggregate is farthest from the honest mean."""
    mean = jnp.mean(honest, axis=0)

    def moved(size):
        lies = jnp.tile(mean + size * direction, (f, 1))
        return jnp.linalg.norm(aggregate(jnp.concatenate([honest, lies])) - mean)

    return sizes[jnp.argmax(jax.vmap(moved)(sizes))]
