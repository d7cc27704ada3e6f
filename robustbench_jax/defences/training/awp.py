"""awp(defence): the weights are moved to where the batch's objective is higher, and the gradient is taken there.

Reference: Wu et al., NeurIPS 2020, arXiv:2004.05884. Each weight w of more than one dimension moves by
gamma * ||w|| * g / ||g||, g being the gradient of the inner defence's objective: the paper's one step of size gamma,
relative to each layer's norm. Biases, and scales of batch norm, stay.
Departs from the paper: weight decay is that of the weights as they were, not as they were moved; there is no warm-up
without it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from robustbench_jax.defences.training.adversarial import require_at_least_0
from robustbench_jax.defences.training.wrapped import WrappedTraining
from robustbench_jax.ops.balls import L2
from robustbench_jax.registry import register
from robustbench_jax.types import record


@register("training", "awp", paper="wu2020", parts={"defence": "training"})
@record
class AWP(WrappedTraining):
    """gamma: how far each layer moves, in parts of its norm; in the paper 0.005 for TRADES and 0.01 for adversarial
    training. A step costs one more backward pass.
    """

    defence: Any
    gamma: float = 0.005

    def __post_init__(self):
        require_at_least_0("awp", gamma=self.gamma)

    def combine(
        self, key: jax.Array, objective: Callable, weights: Any, batch: tuple, memory: Any
    ) -> tuple[Any, Any, Any]:
        def moved(weights, batch):
            fixed, there = jax.lax.stop_gradient((weights, batch))
            upwards, _ = jax.grad(objective, has_aux=True)(fixed, there)
            away = displacement(fixed, upwards, self.gamma)
            return objective({name: value + away[name] for name, value in weights.items()}, batch)

        return self.defence.combine(key, moved, weights, batch, memory)


def displacement(weights: dict[str, jax.Array], upwards: dict[str, jax.Array], gamma: jax.Array) -> dict:
    """By how much each weight moves; not at all where its gradient is 0."""

    def one(weight, gradient):
        size = gamma * jnp.linalg.norm(weight.ravel())
        return size * L2(1.0).steepest(gradient) if weight.ndim > 1 else jnp.zeros_like(weight)

    return {name: one(weight, upwards[name]) for name, weight in weights.items()}
