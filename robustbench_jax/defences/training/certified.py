"""What certified training in Linf shares: the schedule of eps, worst-case logits by intervals, and how to begin.

Reference: Gowal et al., 2018, arXiv:1810.12715 (IBP); Shi et al., NeurIPS 2021, arXiv:2103.17268 (its initialisation, a
short warm-up, and two regularisers that act while eps grows).
Weights begin with the variance 2 pi / n^2 for n inputs, which keeps the width of intervals from layer to layer.
With m layers before ReLUs, d_i the mean width of layer i's intervals and d_0 that of the box, the regularisers are
    tightness  sum_i max(tau - d_0 / d_i, 0) / (tau m)
    balance    sum_i [max(tau - min(a_i, 1 / a_i), 0) + max(tau - min(b_i, 1 / b_i), 0)] / (tau m)
where a_i and b_i compare active entries (low > 0) with inactive ones (high < 0), by the sums of the centres and of the
squares of their distance from the layer's mean.
Departs from the paper: intervals see batch norm with its running statistics, in which the weights' gradient has no
part; in the place of eps = 0 stands FLOOR * eps, so that widths have ratios. Means and sums are over the batch.
Shapes: B batch, D input shape, C classes, S the shape of a layer.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from robustbench_jax.ops.bounds import interval, linear
from robustbench_jax.ops.bounds.graph import read
from robustbench_jax.ops.bounds.regions import Bounds, Region, boxed
from robustbench_jax.training import TrainingDefence
from robustbench_jax.types import Classifier, UserError, record

POWER, BEND = 4, 0.25  # eps grows as t^4 for a quarter of its ramp, and then in a line
FLOOR = 1e-3
TAU = 0.5
TINY = 1e-12


@record
class CertifiedTraining(TrainingDefence):
    """eps: the Linf radius on the scale of [0, 1]. warm_up, ramp: shares of all steps, those with no eps and those in
    which eps then grows. regularise: the weight of tightness and balance, which goes to zero as eps grows; l1: that
    of the sum of the weights' absolute values.
    """

    eps: float = 0.1
    warm_up: float = 0.05
    ramp: float = 0.45
    regularise: float = 0.5
    l1: float = 0.0

    def __post_init__(self):
        name = self.registered[1]
        for key in ("eps", "warm_up", "ramp", "regularise", "l1"):
            require_least(name, key, getattr(self, key))
        if isinstance(self.warm_up, int | float) and self.warm_up + self.ramp > 1:
            raise UserError(
                f"{name}: warm_up = {self.warm_up} and ramp = {self.ramp} are shares of all steps: at most 1 in all"
            )

    def initialise(self, model: Classifier) -> Classifier:
        """The model with its kernels scaled to the standard deviation sqrt(2 pi) / n."""
        weights = model.net.trainable(model.params)
        kernels = {name: scaled(value) for name, value in weights.items() if name.split("/")[-1] == "kernel"}
        return model.replace(params=model.params | kernels)

    def grown(self, progress: jax.Array) -> jax.Array:
        """The share of eps that is reached, FLOOR at least."""
        return jnp.maximum(growth(progress, self.warm_up, self.ramp), FLOOR)

    def besides(self, model: Classifier, found: "Worst", region: Region, share: jax.Array) -> jax.Array:
        """What is added to the loss: the regularisers."""
        total = self.regularise * (1 - share) * (tightness(found.layers, region) + balance(found.layers))
        sizes = [jnp.sum(jnp.abs(w)) for w in model.net.trainable(model.params).values() if w.ndim > 1]
        return total + self.l1 * sum(sizes, jnp.zeros(()))


class Worst(NamedTuple):
    """logits [B, C] that no image of a region exceeds, those of the label being 0; the layers' intervals [B, S]."""

    logits: jax.Array
    layers: tuple[Bounds, ...]


def growth(progress: jax.Array, warm_up: float, ramp: float) -> jax.Array:
    """From 0, until `warm_up`, to 1, at `warm_up + ramp`; without a jump in value or slope before its end."""
    t = jnp.clip((progress - warm_up) / jnp.maximum(ramp, TINY), 0, 1)
    scale = 1 / (BEND ** (POWER - 1) * (BEND + POWER * (1 - BEND)))
    curve = scale * t**POWER
    line = scale * BEND ** (POWER - 1) * (BEND + POWER * (t - BEND))
    return jnp.where(t < BEND, curve, line)


def around(centre: jax.Array, eps: jax.Array) -> Region:
    """The boxes of radius eps around images [B, D], cut to [0, 1]."""
    return jax.vmap(boxed)(jnp.maximum(centre - eps, 0.0), jnp.minimum(centre + eps, 1.0))


def within(x: jax.Array, centre: jax.Array, eps: jax.Array) -> jax.Array:
    """x [B, D], no further than eps from the centre."""
    return jnp.clip(x, centre - eps, centre + eps)


def worst(model: Classifier, regions: Region, y: jax.Array, classes: int) -> Worst:
    """By intervals, the last layer folded into the differences of logits."""

    def one(region, y):
        graph = read(model, region.low)
        bounds = interval.propagate(graph, region.box)
        least = linear.at_inputs(graph, differences(y, classes), bounds, region)
        return Worst(-least, tuple(bounds[number] for number in linear.needed(graph)))

    return jax.vmap(one)(regions, y)


def differences(y: jax.Array, classes: int) -> jax.Array:
    """[C, C]: row j is the logit of y minus that of j; row y is zero."""
    eye = jnp.eye(classes)
    return eye[y] - eye


def tightness(layers: tuple[Bounds, ...], region: Region) -> jax.Array:
    """How much wider than the box intervals are, from 0 to 1."""
    first = jnp.mean(region.high - region.low)
    ratios = [ratio(first, jnp.mean(z.high - z.low)) for z in layers]
    return sum((jax.nn.relu(TAU - r) for r in ratios), jnp.zeros(())) / (TAU * max(len(layers), 1))


def balance(layers: tuple[Bounds, ...]) -> jax.Array:
    """How uneven the entries that are surely active and surely inactive are, from 0 to 2."""
    total = jnp.zeros(())
    for z in layers:
        centre, active, inactive = (z.low + z.high) / 2, z.low > 0, z.high < 0
        apart = (centre - jnp.mean(centre)) ** 2
        for size in (jnp.abs(centre), apart):
            a, b = jnp.sum(size * active), jnp.sum(size * inactive)
            total += jax.nn.relu(TAU - jnp.minimum(ratio(a, b), ratio(b, a)))
    return total / (TAU * max(len(layers), 1))


def ratio(a: jax.Array, b: jax.Array) -> jax.Array:
    """a / b, and 1 where both are zero."""
    return (a + TINY) / (b + TINY)


def scaled(kernel: jax.Array) -> jax.Array:
    """A kernel [..., outs] with the root mean square sqrt(2 pi) / n, n being its inputs."""
    count = math.prod(kernel.shape[:-1])
    return kernel * (math.sqrt(2 * math.pi) / count / jnp.sqrt(jnp.mean(kernel**2) + TINY))


def require_least(owner: str, name: str, value: float, most: float = math.inf) -> None:
    """UserError for a number below 0 or above `most`; traced values pass."""
    if isinstance(value, int | float) and not 0 <= value <= most:
        limits = "at least 0" if most == math.inf else f"from 0 to {most:g}"
        raise UserError(f"{owner}: {name} = {value} must be {limits}")
