"""di_fgsm: momentum over gradients of the image at random sizes and places, so that it fits no one model.

Reference: Xie et al., CVPR 2019, arXiv:1803.06978 (M-DI2-FGSM).
Shapes: H, W, C image. Written for one example; ops/drive.py adds the batch.
Departs from the paper: the image shrinks within its own size instead of growing to 330 pixels, since most models take
one size only; resizing is bilinear. What a step evaluates is not what it hands in, so no step can tell success.
"""

from typing import Any

import jax
import jax.numpy as jnp

from robustbench_jax.attacks.evasion.mi_fgsm import Momentum, State
from robustbench_jax.ops import gradients
from robustbench_jax.registry import register
from robustbench_jax.types import Problem, UserError, record


@register("attack", "di_fgsm", threat="evasion", access="gradients", paper="xie2019diversity")
@record
class DIFGSM(Momentum):
    """chance: share of the steps whose image is moved. smallest: the least side, as a share of the image's.

    The paper's range, 299 of 330 pixels, is smallest = 0.906.
    """

    steps: int = 10
    decay: float = 1.0
    chance: float = 0.5
    smallest: float = 0.9
    loss: str = "cross_entropy"

    def __post_init__(self):
        super().__post_init__()
        for name in ("chance", "smallest"):
            if isinstance(getattr(self, name), float) and not 0 < getattr(self, name) <= 1:
                raise UserError(f"di_fgsm: {name} = {getattr(self, name)} must be above 0 and at most 1")

    def step(self, key: jax.Array, problem: Problem, state: State) -> State:
        moved = problem.replace(model=Diverse(problem.model, key, self.chance, self.smallest))
        gradient, _ = gradients.ascent(moved, self.loss_function, state.x_adv)
        return self.onwards(problem, state, gradient)


@record
class Diverse:
    """The model behind one random resizing and padding."""

    model: Any
    key: jax.Array
    chance: float
    smallest: float

    @property
    def by_loss(self) -> bool:
        return getattr(self.model, "by_loss", False)

    def each(self, x: jax.Array) -> jax.Array:
        return self.model.each(self._moved(x))

    def fuse(self, each: jax.Array) -> jax.Array:
        return self.model.fuse(each)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.model(self._moved(x))

    def _moved(self, x: jax.Array) -> jax.Array:
        often, side, place = jax.random.split(self.key, 3)
        small = resized(x, jax.random.uniform(side, minval=self.smallest), jax.random.uniform(place, (2,)))
        return jnp.where(jax.random.bernoulli(often, self.chance), small, x)


def resized(x: jax.Array, scale: jax.Array, place: jax.Array) -> jax.Array:
    """x [H, W, C] at round(scale * H) x round(scale * W), on black; place [2] in [0, 1]: where the margins fall."""
    rows, columns = (_lines(size, scale, place[axis]) for axis, size in enumerate(x.shape[:2]))
    return jnp.einsum("ia,jb,abc->ijc", rows, columns, x, precision=jax.lax.Precision.HIGHEST)


def _lines(size: int, scale: jax.Array, place: jax.Array) -> jax.Array:
    """[size, size]: which old lines, with which bilinear weights, a new line is made of; none outside."""
    smaller = jnp.round(scale * size)
    start = jnp.floor(place * (size - smaller + 1))
    index = jnp.arange(size)
    at = jnp.clip((index - start + 0.5) * size / smaller - 0.5, 0, size - 1)
    weights = jnp.maximum(1 - jnp.abs(at[:, None] - index), 0)
    return jnp.where(((index >= start) & (index < start + smaller))[:, None], weights, 0)
