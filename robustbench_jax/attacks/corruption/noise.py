"""Noise: Gaussian, shot (Poisson), impulse (salt and pepper) and, of the four extra corruptions, speckle.

Reference: Hendrycks & Dietterich, ICLR 2019, arXiv:1903.12261; the inverse of the Poisson distribution after Giles,
ACM Transactions on Mathematical Software 42(1), 2016.
Shapes: H height, W width, C channels. Written for one image [H, W, C] in [0, 1]; every channel draws its own noise.
"""

from typing import Any

import jax
import jax.numpy as jnp

from robustbench_jax.attacks.corruption.corruption import Corruption, unit
from robustbench_jax.registry import register
from robustbench_jax.types import record

FEW = 8  # photons


@register("attack", "gaussian_noise", threat="corruption", access="none", paper="hendrycks2019")
@record
class GaussianNoise(Corruption):
    """Adds normal noise; the parameter is its standard deviation."""

    small = (0.04, 0.06, 0.08, 0.09, 0.10)
    middle = (0.04, 0.08, 0.12, 0.15, 0.18)
    large = (0.08, 0.12, 0.18, 0.26, 0.38)

    def corrupt(self, key: jax.Array, x: jax.Array, severity: Any) -> jax.Array:
        return unit(x + self.chosen(x, severity) * jax.random.normal(key, x.shape))


@register("attack", "shot_noise", threat="corruption", access="none", paper="hendrycks2019")
@record
class ShotNoise(Corruption):
    """Counts of photons: Poisson of x times the parameter, the number of photons that are white."""

    small = (500, 250, 100, 75, 50)
    middle = (250, 100, 50, 30, 15)
    large = (60, 25, 12, 5, 3)

    def corrupt(self, key: jax.Array, x: jax.Array, severity: Any) -> jax.Array:
        photons = self.chosen(x, severity)
        return unit(_counts(key, x * photons) / photons)


@register("attack", "impulse_noise", threat="corruption", access="none", paper="hendrycks2019")
@record
class ImpulseNoise(Corruption):
    """Salt and pepper: the parameter is the share of values that become 0 or 1, evenly."""

    small = (0.01, 0.02, 0.03, 0.05, 0.07)
    middle = (0.01, 0.02, 0.05, 0.08, 0.14)
    large = (0.03, 0.06, 0.09, 0.17, 0.27)

    def corrupt(self, key: jax.Array, x: jax.Array, severity: Any) -> jax.Array:
        where, which = jax.random.split(key)
        hit = jax.random.bernoulli(where, self.chosen(x, severity), x.shape)
        return jnp.where(hit, jax.random.bernoulli(which, 0.5, x.shape).astype(x.dtype), x)


@register("attack", "speckle_noise", threat="corruption", access="none", paper="hendrycks2019")
@record
class SpeckleNoise(Corruption):
    """Adds normal noise that is stronger where the image is brighter: of standard deviation x times the parameter."""

    small = (0.06, 0.10, 0.12, 0.16, 0.20)
    middle = (0.15, 0.20, 0.25, 0.30, 0.35)
    large = (0.15, 0.20, 0.35, 0.45, 0.60)

    def corrupt(self, key: jax.Array, x: jax.Array, severity: Any) -> jax.Array:
        return unit(x + x * self.chosen(x, severity) * jax.random.normal(key, x.shape))


def _counts(key: jax.Array, rate: jax.Array) -> jax.Array:
    """Poisson counts of any rates, from one uniform number each: the inverse of their distribution function.

    Below a rate of FEW its terms are summed; above, it is the first terms of Giles's expansion, whose probabilities
    are right to 1e-4. `jax.random.poisson` rejects, and under vmap waits for the unluckiest pixel: 5 times slower.
    """
    p = jnp.clip(jax.random.uniform(key, rate.shape), 1e-7, 1 - 1e-7)
    return jnp.where(rate < FEW, _summed(p, jnp.minimum(rate, FEW)), _expanded(p, jnp.maximum(rate, FEW)))


def _summed(p: jax.Array, rate: jax.Array) -> jax.Array:
    def add(k, carry):
        term, reached, count = carry
        term = term * rate / k
        return term, reached + term, count + (p > reached + term)

    first = jnp.exp(-rate)
    return jax.lax.fori_loop(1, 4 * FEW, add, (first, first, (p > first).astype(rate.dtype)))[2]


def _expanded(p: jax.Array, rate: jax.Array) -> jax.Array:
    w, root = jax.scipy.special.ndtri(p), jnp.sqrt(rate)
    second = (-w / 36 - w**3 / 72) / root + (-8 / 405 + 7 * w**2 / 810 + w**4 / 270) / rate
    return jnp.maximum(jnp.floor(rate + root * w + 1 / 3 + w**2 / 6 + second), 0.0)
