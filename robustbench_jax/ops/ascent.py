"""Projected gradient ascent of a whole batch: the inner maximisation of adversarial training.

No example stops early, and what becomes of one depends on its id alone. loss(logits [C], about) is that of one example,
a function of a module (it is static); `about` holds, for each, what it is measured against: labels, or logits of the
clean image. Steps are fractions of the radius; a new number of them, radius, size or set of weights compiles nothing.
Shapes: B batch, D input shape, C classes, K balls.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from robustbench_jax.keys import per_example
from robustbench_jax.ops.balls import Ball
from robustbench_jax.types import Classifier


@jax.jit
def logits_of(model: Classifier, x: jax.Array) -> jax.Array:
    """[B, C] in inference mode."""
    return jax.vmap(model)(x)


@jax.jit
def beside(key: jax.Array, ball: Ball, x: jax.Array, ids: jax.Array, sigma: float) -> jax.Array:
    """A start [B, D] next to each image: Gaussian noise of standard deviation sigma. The key is consumed."""

    def one(key, x):
        return ball.project(x, x + sigma * jax.random.normal(key, x.shape))

    return jax.vmap(one)(per_example(key, ids), x)


@jax.jit
def inside(key: jax.Array, ball: Ball, x: jax.Array, ids: jax.Array) -> jax.Array:
    """A start [B, D] at a random point of each ball. The key is consumed."""
    return jax.vmap(ball.sample)(per_example(key, ids), x)


@partial(jax.jit, static_argnames="loss")
def ascend(
    loss: Callable,
    model: Classifier,
    ball: Ball,
    x: jax.Array,
    start: jax.Array,
    about: Any,
    steps: int,
    fraction: float,
) -> jax.Array:
    """x_adv [B, D], `steps` moves from `start` [B, D] inside the balls around x [B, D]."""

    def move(_, z):
        return along(ball, x, z, ascent(loss, model, z, about), fraction)

    return jax.lax.fori_loop(0, steps, move, start)


@partial(jax.jit, static_argnames="loss")
def ascend_any(
    loss: Callable,
    model: Classifier,
    balls: tuple[Ball, ...],
    x: jax.Array,
    start: jax.Array,
    about: Any,
    steps: int,
    fraction: float,
) -> jax.Array:
    """As `ascend`; every move is the one, of those along each ball, that ends where the loss is highest. What comes
    back is the best of all that was met after the start.
    """

    def move(_, state):
        z, best, most = state
        upwards = ascent(loss, model, z, about)
        z, value = _highest(loss, model, jnp.stack([along(b, x, z, upwards, fraction) for b in balls]), about)
        better = value > most
        return z, jnp.where(_wide(better, z), z, best), jnp.where(better, value, most)

    nothing = jnp.full(len(x), -jnp.inf)
    return jax.lax.fori_loop(0, steps, move, (start, start, nothing))[1]


@partial(jax.jit, static_argnames="loss")
def highest(loss: Callable, model: Classifier, proposals: jax.Array, about: Any) -> jax.Array:
    """[B, D]: of proposals [K, B, D], for each example the one with the highest loss; ties go to the first."""
    return _highest(loss, model, proposals, about)[0]


def _highest(loss: Callable, model: Classifier, proposals: jax.Array, about: Any) -> tuple[jax.Array, jax.Array]:
    losses = jax.vmap(lambda z: jax.vmap(loss)(jax.vmap(model)(z), about))(proposals)
    return proposals[jnp.argmax(losses, axis=0), jnp.arange(proposals.shape[1])], jnp.max(losses, axis=0)


def _wide(flags: jax.Array, like: jax.Array) -> jax.Array:
    """flags [B] with the axes of `like` [B, D]."""
    return flags.reshape(-1, *(1,) * (like.ndim - 1))


def ascent(loss: Callable, model: Classifier, z: jax.Array, about: Any) -> jax.Array:
    """The gradient [B, D] of each example's loss."""
    return jax.grad(lambda z: jnp.sum(jax.vmap(loss)(jax.vmap(model)(z), about)))(z)


def along(ball: Ball, x: jax.Array, z: jax.Array, upwards: jax.Array, fraction: float) -> jax.Array:
    return jax.vmap(partial(ball.along, fraction=fraction))(x, z, upwards)
