"""Ascent over a pool of images: one point for all of them, by stochastic gradient steps.

Reference: Shafahi et al., AAAI 2020, arXiv:1811.11304 (universal perturbations by SGD).
Shapes: N images of the pool, B batch, D input shape, U the point.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.keys import generator, stream
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.views import answering
from robustbench_jax.types import Classifier, Problem


def ascend(
    key: jax.Array,
    attack: Any,
    model: Classifier,
    budget: Any,
    x: np.ndarray,
    y: np.ndarray,
    start: jax.Array,
    *,
    updates: int,
    batch: int,
    step_size: float,
) -> jax.Array:
    """The point [U] after `updates` steps of a fraction that falls from `step_size` to 0. The key is consumed.

    Each step follows the mean of `attack.learn(key, problem, point)` -> [U] over B images of the pool, drawn anew.
    """
    rng = generator(stream(key, "rows"))
    point, batch = start, min(batch, len(y))
    for update in range(updates):
        rows = rng.choice(len(y), batch, replace=False)
        own = jax.random.fold_in(stream(key, "updates"), update)
        point = _update(own, attack, model, budget, point, x[rows], y[rows], step_size * (1 - update / updates))
    return point


def grey(shape: tuple[int, ...]) -> jax.Array:
    """The image in the middle of the box, around which every perturbation has as much room as it ever has."""
    return jnp.full(shape, 0.5)


@jax.jit
def _update(key, attack, model, budget, point, x, y, step_size):
    def one(key, x, y):
        seen = answering(model.keyed(stream(key, "model")), y)
        problem = Problem(seen, budget, attack.goal, x, y, jnp.int32(-1), jnp.int32(0))
        return attack.learn(key, problem, point)

    gradient = jnp.mean(jax.vmap(one)(jax.random.split(key, len(y)), as_unit(x), y), axis=0)
    return budget.along(grey(x.shape[1:]), point, gradient, step_size)
