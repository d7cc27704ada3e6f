"""Gradients of what an attack maximises, of one model or of several models and draws attacked as one.

References: expectation over transformation, Athalye et al., ICML 2018, arXiv:1707.07397; ensembles of surrogates, Liu
et al., ICLR 2017, arXiv:1611.02770 (probabilities), Dong et al., CVPR 2018, arXiv:1710.06081 (logits, losses).
Shapes: D input shape, C classes, S draws or surrogates; one example.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from robustbench_jax.ops.balls import Ball
from robustbench_jax.types import Problem, record

FUSIONS = ("logits", "probabilities", "loss")


@record
class Averaged:
    """A model whose answers are means over draws: its gradient is the mean of S gradients, its logits of S logits.

    keys [S]; over: a budget of which each draw takes a random point to move the image by, or None for the model's own
    randomness alone. One call is S forward evaluations.
    """

    model: Any
    keys: jax.Array
    over: Any = None
    stochastic = False
    by_loss = True

    def each(self, x: jax.Array) -> jax.Array:
        """Logits [S, C]."""
        return jax.vmap(lambda key: self._draw(key, x))(self.keys)

    def fuse(self, each: jax.Array) -> jax.Array:
        return jnp.mean(each, axis=0)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fuse(self.each(x))

    def _draw(self, key: jax.Array, x: jax.Array) -> jax.Array:
        of_model, of_image = jax.random.split(key)
        return self.model.keyed(of_model)(x if self.over is None else self._moved(of_image, x))

    def _moved(self, key: jax.Array, x: jax.Array) -> jax.Array:
        fixed = jax.lax.stop_gradient(x)
        z = self.over.sample(key, fixed)
        if isinstance(self.over, Ball):  # its points are images: the noise is drawn, what it is added to is not
            z = x + (z - fixed)
        return self.over.render(x, z)


@record
class Ensemble:
    """Several models attacked as one. fusion: what is averaged: "logits", "probabilities", or "loss", where logits
    that are asked for alone are the mean. One call is S forward evaluations.
    """

    members: tuple = dataclasses.field(default=(), metadata={"static": False})
    fusion: str = "logits"

    @property
    def stochastic(self) -> bool:
        return any(member.stochastic for member in self.members)

    def keyed(self, key: jax.Array) -> "Ensemble":
        """The same models, each drawing its randomness from a key of its own."""
        keys = jax.random.split(key, len(self.members))
        return self.replace(members=tuple(member.keyed(own) for member, own in zip(self.members, keys, strict=True)))

    @property
    def by_loss(self) -> bool:
        return self.fusion == "loss"

    def each(self, x: jax.Array) -> jax.Array:
        """Logits [S, C]."""
        return jnp.stack([member(x) for member in self.members])

    def fuse(self, each: jax.Array) -> jax.Array:
        if self.fusion == "probabilities":
            return jax.nn.logsumexp(jax.nn.log_softmax(each), axis=0) - jnp.log(len(each))
        return jnp.mean(each, axis=0)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fuse(self.each(x))


def ascent(problem: Problem, loss: Callable, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Gradient [D] of the problem's objective at `x` and the logits [C] there: one forward and one backward pass of
    the problem's model; of one that averages over the loss, the mean gradient and the mean logits.
    """

    def objective(x):
        if not getattr(problem.model, "by_loss", False):
            logits = problem.logits(x)
            return problem.objective(loss, logits), logits
        each = problem.model.each(problem.budget.render(problem.x, x))
        return jnp.mean(jax.vmap(lambda logits: problem.objective(loss, logits))(each)), problem.model.fuse(each)

    gradient, logits = jax.grad(objective, has_aux=True)(x)
    return gradient, logits
