"""Norm balls around an image, cut by the box [0, 1].

`project` is the exact Euclidean projection onto ball and box together, not one after the other: with multipliers, the
nearest point is x + clip(shrink(d, t), -x, 1 - x) for one scalar t, which a fixed number of bisections finds (L2, L1);
for L1 see Croce & Hein, ICML 2021, arXiv:2103.01208. What comes back lies in the box exactly, is x itself for eps = 0,
is z itself where z is feasible, and exceeds eps by no more than the float32 rounding of its entries (2**-24 each).
Shapes: D input shape, any. One example.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.registry import register
from robustbench_jax.types import UserError, record

BISECTIONS = 40


def _require_radius(name: str, eps: Any) -> None:
    if isinstance(eps, int | float | np.number) and not (0 <= eps < math.inf):
        raise UserError(f"{name}: eps = {eps} must be a finite number of at least 0; write e.g. {name}(8/255)")


class Ball:
    """What all balls share: `along` moves by a fraction of the radius and projects."""

    def __post_init__(self):
        _require_radius(self.registered[1], self.eps)

    def along(self, x: jax.Array, z: jax.Array, g: jax.Array, fraction: Any) -> jax.Array:
        """The feasible point [D] after a step from `z` of size fraction * eps in the steepest direction of `g`."""
        return self.project(x, z + fraction * self.eps * self.steepest(g))


@register("budget", "linf", paper="goodfellow2015")
@record
class Linf(Ball):
    """max |x_adv - x| <= eps."""

    eps: float

    def size(self, delta: jax.Array) -> jax.Array:
        return jnp.max(jnp.abs(delta))

    def project(self, x: jax.Array, z: jax.Array) -> jax.Array:
        return jnp.clip(z, jnp.maximum(x - self.eps, 0.0), jnp.minimum(x + self.eps, 1.0))

    def sample(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """Uniform in the ball, clipped to the box (the random start of Madry et al.)."""
        return self.project(x, x + self.eps * jax.random.uniform(key, x.shape, minval=-1.0, maxval=1.0))

    def steepest(self, g: jax.Array) -> jax.Array:
        return jnp.sign(g)


@register("budget", "l2", paper="szegedy2014")
@record
class L2(Ball):
    """sqrt(sum (x_adv - x)^2) <= eps."""

    eps: float

    def size(self, delta: jax.Array) -> jax.Array:
        return _norm(delta)

    def project(self, x: jax.Array, z: jax.Array) -> jax.Array:
        """x + clip(s * d) with the largest s in [0, 1] that stays in the ball."""
        return _project(x, z, self.eps, self.size, lambda d, s: s * d)

    def sample(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """Uniform in the ball, projected onto ball and box."""
        where, radius = jax.random.split(key)
        direction = self.steepest(jax.random.normal(where, x.shape))
        return self.project(x, x + self.eps * jax.random.uniform(radius) ** (1 / x.size) * direction)

    def steepest(self, g: jax.Array) -> jax.Array:
        largest = jnp.max(jnp.abs(g))
        scaled = g / jnp.where(largest > 0, largest, 1.0)
        return scaled / jnp.maximum(_norm(scaled), 1.0)


@register("budget", "l1", paper="croce2021")
@record
class L1(Ball):
    """sum |x_adv - x| <= eps."""

    eps: float

    def size(self, delta: jax.Array) -> jax.Array:
        return jnp.sum(jnp.abs(delta))

    def project(self, x: jax.Array, z: jax.Array) -> jax.Array:
        """x + clip(soft threshold of d) with the smallest threshold that stays in the ball."""
        largest = jnp.max(jnp.abs(z - x))
        return _project(x, z, self.eps, self.size,
                        lambda d, s: jnp.sign(d) * jnp.maximum(jnp.abs(d) - (1 - s) * largest, 0.0))

    def sample(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """Uniform in the ball (normalised exponentials with signs), projected onto ball and box."""
        sizes, signs = jax.random.split(key)
        spacing = jax.random.exponential(sizes, (x.size + 1,))
        delta = (spacing[:-1] / jnp.sum(spacing)).reshape(x.shape) * jax.random.rademacher(signs, x.shape, x.dtype)
        return self.project(x, x + self.eps * delta)

    def steepest(self, g: jax.Array) -> jax.Array:
        """Sign of the largest 1% of entries, of L1 norm 1: SLIDE of Tramer & Boneh, NeurIPS 2019, arXiv:1904.13000."""
        kept = max(g.size // 100, 1)
        sizes = jnp.abs(g)
        top = jnp.where(sizes >= jax.lax.top_k(sizes.ravel(), kept)[0][-1], jnp.sign(g), 0.0)
        return top / jnp.maximum(jnp.sum(jnp.abs(top)), 1.0)

    def along(self, x: jax.Array, z: jax.Array, g: jax.Array, fraction: Any) -> jax.Array:
        """As every ball, but entries that the box blocks do not take part in choosing the direction."""
        blocked = ((z >= 1.0) & (g > 0)) | ((z <= 0.0) & (g < 0))
        return self.project(x, z + fraction * self.eps * self.steepest(jnp.where(blocked, 0.0, g)))


@register("budget", "l0", paper="croce2019")
@record
class L0(Ball):
    """At most eps entries (features, not pixels) of x_adv differ from x."""

    eps: float

    def size(self, delta: jax.Array) -> jax.Array:
        return jnp.sum(delta != 0).astype(jnp.float32)

    def project(self, x: jax.Array, z: jax.Array) -> jax.Array:
        """Keeps the eps entries whose keeping brings the result nearest to z; ties go to the first."""
        inside = jnp.clip(z, 0.0, 1.0)
        gain = ((z - x) ** 2 - (z - inside) ** 2).ravel()
        order = jnp.argsort(-gain, stable=True)
        rank = jnp.zeros_like(order).at[order].set(jnp.arange(order.size))
        return jnp.where((rank < self.eps).reshape(x.shape), inside, x)

    def sample(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """eps entries, chosen evenly, drawn uniformly from [0, 1]."""
        where, values = jax.random.split(key)
        order = jax.random.permutation(where, x.size).reshape(x.shape)
        return jnp.where(order < self.eps, jax.random.uniform(values, x.shape), x)

    def steepest(self, g: jax.Array) -> jax.Array:
        """g / ||g||_1, the step of PGD-0 (Croce & Hein, ICCV 2019, arXiv:1909.05040)."""
        largest = jnp.max(jnp.abs(g))
        scaled = g / jnp.where(largest > 0, largest, 1.0)
        return scaled / jnp.maximum(jnp.sum(jnp.abs(scaled)), 1.0)

    def along(self, x: jax.Array, z: jax.Array, g: jax.Array, fraction: Any) -> jax.Array:
        """As PGD-0: a step of L1 length fraction * D, `fraction` of the box for the average entry, whatever eps is."""
        return self.project(x, z + fraction * g.size * self.steepest(g))


def _norm(delta: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(delta * delta))


def _project(x: jax.Array, z: jax.Array, eps: Any, size: Any, shrink: Any) -> jax.Array:
    """The feasible point x + clip(shrink(d, s)) with the largest s in [0, 1]; its size grows with s."""
    delta = z - x

    def at(s):
        return jnp.clip(shrink(delta, s), -x, 1.0 - x)

    def halve(_, bounds):
        low, high = bounds
        middle = 0.5 * (low + high)
        fits = size(at(middle)) <= eps
        return jnp.where(fits, middle, low), jnp.where(fits, high, middle)

    s, _ = jax.lax.fori_loop(0, BISECTIONS, halve, (jnp.zeros((), x.dtype), jnp.ones((), x.dtype)))
    boxed = jnp.clip(z, 0.0, 1.0)
    return jnp.where(size(boxed - x) <= eps, boxed, jnp.clip(x + at(s), 0.0, 1.0))
