"""Norm balls around an image, cut by the box [0, 1].

`project` is the exact Euclidean projection onto ball and box together, not one after the other: with
multipliers, the nearest point is clip(x + shrink(z - x, t), 0, 1) for one scalar t, which a fixed number of
bisections finds (L2, L1); for L1 see Croce & Hein, ICML 2021, arXiv:2103.01208. What comes back lies in the
box exactly, is x itself for eps = 0 and z itself where z is feasible. The search measures the rounded
point, not the ideal one, so its size is at most eps * (1 + 1e-6), in float32 and in float64, up to 150,528
entries.
Shapes: D input shape, any. One example, float32; x in the box; `eps` may be traced.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.ops.sums import inner, total
from robustbench_jax.registry import register
from robustbench_jax.types import UserError, record

BISECTIONS = 40
TINY = 1e-30


def _require_radius(name: str, eps: Any) -> None:
    if isinstance(eps, int | float | np.number) and not (0 <= eps < math.inf):
        example = "l0(10)" if name == "l0" else f"{name}(8/255)"
        raise UserError(f"{name}: eps = {eps} must be a finite number of at least 0; write e.g. {example}")


class Ball:
    """What all balls share: their points are images, and `along` moves by a fraction of the radius and projects.

    p: the norm (inf, 2, 1 or 0).
    """

    p: float

    def __post_init__(self):
        _require_radius(self.registered[1], self.eps)

    def identity(self, x: jax.Array) -> jax.Array:
        """The point that changes nothing: the image itself."""
        return x

    def render(self, x: jax.Array, z: jax.Array) -> jax.Array:
        """The image that the point z stands for."""
        return z

    def along(self, x: jax.Array, z: jax.Array, g: jax.Array, fraction: Any) -> jax.Array:
        """The feasible point [D] a step of size fraction * eps from `z` in the steepest direction of `g`."""
        return self.project(x, z + fraction * self.eps * self.steepest(g))


@register("budget", "linf", paper="goodfellow2015")
@record
class Linf(Ball):
    """max |x_adv - x| <= eps (Goodfellow et al., ICLR 2015, arXiv:1412.6572)."""

    eps: float
    p = math.inf

    def size(self, delta: jax.Array) -> jax.Array:
        return jnp.max(jnp.abs(delta))

    def project(self, x: jax.Array, z: jax.Array) -> jax.Array:
        """z clipped to [x - eps, x + eps], whose ends are rounded towards x, and to the box."""
        low, high = x - self.eps, x + self.eps
        low = jnp.where(x - low > self.eps, jnp.nextafter(low, x), low)
        high = jnp.where(high - x > self.eps, jnp.nextafter(high, x), high)
        return jnp.clip(z, jnp.maximum(low, 0.0), jnp.minimum(high, 1.0))

    def sample(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """Uniform in the ball, clipped to the box (the random start of Madry et al.)."""
        return self.project(x, x + self.eps * jax.random.uniform(key, x.shape, minval=-1.0, maxval=1.0))

    def steepest(self, g: jax.Array) -> jax.Array:
        return jnp.sign(g)


@register("budget", "l2", paper="szegedy2014")
@record
class L2(Ball):
    """sqrt(sum (x_adv - x)^2) <= eps (Szegedy et al., ICLR 2014, arXiv:1312.6199)."""

    eps: float
    p = 2

    def size(self, delta: jax.Array) -> jax.Array:
        return _norm(delta)

    def project(self, x: jax.Array, z: jax.Array) -> jax.Array:
        """clip(x + s * (z - x)) with the largest s in [0, 1] that stays in the ball."""
        fits = 0.5 * self.eps / jnp.maximum(_norm(z - x), TINY)
        return _nearest(self, x, z, jnp.multiply, fits, 1.0)

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
    p = 1

    def size(self, delta: jax.Array) -> jax.Array:
        return total(jnp.abs(delta))

    def project(self, x: jax.Array, z: jax.Array) -> jax.Array:
        """clip(x + soft_threshold(z - x, t)) with the smallest t of at least 0 that stays in the ball."""
        return _nearest(self, x, z, _soft_threshold, jnp.max(jnp.abs(z - x)), 0.0)

    def sample(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """Uniform in the ball (normalised exponentials with signs), projected onto ball and box."""
        sizes, signs = jax.random.split(key)
        spacing = jax.random.exponential(sizes, (x.size + 1,))
        sizes = (spacing[:-1] / jnp.sum(spacing)).reshape(x.shape)
        return self.project(x, x + self.eps * sizes * jax.random.rademacher(signs, x.shape, x.dtype))

    def steepest(self, g: jax.Array) -> jax.Array:
        """Sign of the largest 1% of entries, of L1 norm 1 (SLIDE: Tramer & Boneh, 2019, arXiv:1904.13000).

        Sharing the step among few entries beats both the steepest one alone, which saturates at the box, and many:
        PGD of 40 steps at eps = 8 on a Fashion-MNIST CNN leaves 22% of 128 images robust with one entry, 6% with
        1% of them, 16% with 10%.
        """
        top = jnp.where(largest(jnp.abs(g), max(g.size // 100, 1)), jnp.sign(g), 0.0)
        return top / jnp.maximum(total(jnp.abs(top)), 1.0)

    def along(self, x: jax.Array, z: jax.Array, g: jax.Array, fraction: Any) -> jax.Array:
        """As every ball, but entries that the box blocks do not take part in choosing the direction."""
        blocked = ((z >= 1.0) & (g > 0)) | ((z <= 0.0) & (g < 0))
        return self.project(x, z + fraction * self.eps * self.steepest(jnp.where(blocked, 0.0, g)))


@register("budget", "l0", paper="croce2019")
@record
class L0(Ball):
    """At most eps entries (features, not pixels) of x_adv differ from x; eps is rounded down.

    Reference: Croce & Hein, ICCV 2019, arXiv:1909.05040.
    """

    eps: float
    p = 0

    def size(self, delta: jax.Array) -> jax.Array:
        return total(delta != 0)

    def project(self, x: jax.Array, z: jax.Array) -> jax.Array:
        """Keeps the eps entries whose keeping brings the result nearest to z; ties go to the first."""
        inside = jnp.clip(z, 0.0, 1.0)
        gain = (z - x) ** 2 - (z - inside) ** 2
        nearest = jnp.where(largest(gain, jnp.floor(self.eps)), inside, x)
        return jnp.where(self.size(inside - x) <= self.eps, inside, nearest)

    def sample(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """eps entries, chosen evenly, drawn uniformly from [0, 1]."""
        where, values = jax.random.split(key)
        rank = jax.random.permutation(where, jnp.arange(1, x.size + 1)).reshape(x.shape)
        return jnp.where(rank <= self.eps, jax.random.uniform(values, x.shape), x)

    def steepest(self, g: jax.Array) -> jax.Array:
        """g / ||g||_1, the step of PGD-0 (Croce & Hein, ICCV 2019, arXiv:1909.05040)."""
        largest = jnp.max(jnp.abs(g))
        scaled = g / jnp.where(largest > 0, largest, 1.0)
        return scaled / jnp.maximum(total(jnp.abs(scaled)), 1.0)

    def along(self, x: jax.Array, z: jax.Array, g: jax.Array, fraction: Any) -> jax.Array:
        """A step of 10 * fraction for the average entry, whatever eps is: a ball that counts has no length.

        Long steps let the projection choose entries by |g| times their room to the box; short ones never leave the
        entries they began with. PGD of 40 steps (fraction 1/16) at eps = 15 on a Fashion-MNIST CNN leaves 2% of 128
        images robust, with steps a tenth as long 21%.
        """
        return self.project(x, z + 10.0 * fraction * g.size * self.steepest(g))


def _norm(delta: jax.Array) -> jax.Array:
    return jnp.sqrt(inner(delta, delta))


def largest(sizes: jax.Array, k: Any) -> jax.Array:
    """True at the k largest of sizes [D] >= 0, ties to the first. Bisects the bits, ordered as the floats."""
    bits = jax.lax.bitcast_convert_type(sizes.ravel().astype(jnp.float32), jnp.int32)

    def halve(_, bounds):
        low, high = bounds
        middle = low + (high - low) // 2
        enough = total(bits >= middle) >= k
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    last, _ = jax.lax.fori_loop(0, 31, halve, (jnp.int32(0), jnp.int32(jnp.iinfo(jnp.int32).max)))
    above, tied = bits > last, bits == last
    return (above | (tied & (jnp.cumsum(tied) <= k - jnp.sum(above)))).reshape(sizes.shape)


def _soft_threshold(delta: jax.Array, t: jax.Array) -> jax.Array:
    return jnp.sign(delta) * jnp.maximum(jnp.abs(delta) - t, 0.0)


def _nearest(ball: Ball, x: jax.Array, z: jax.Array, shrink: Any, fits: Any, exceeds: Any) -> jax.Array:
    """clip(x + shrink(z - x, t)) with the last t from `fits` towards `exceeds` that stays in the ball."""

    def at(t):
        return jnp.clip(x + shrink(z - x, t), 0.0, 1.0)

    def inside(x_adv):
        return ball.size(x_adv - x) <= ball.eps

    def halve(_, bounds):
        fits, exceeds = bounds
        middle = 0.5 * (fits + exceeds)
        good = inside(at(middle))
        return jnp.where(good, middle, fits), jnp.where(good, exceeds, middle)

    ends = jnp.asarray(fits, x.dtype), jnp.asarray(exceeds, x.dtype)
    t, _ = jax.lax.fori_loop(0, BISECTIONS, halve, ends)
    boxed = jnp.clip(z, 0.0, 1.0)
    return jnp.where(ball.eps > 0, jnp.where(inside(boxed), boxed, at(t)), x)
