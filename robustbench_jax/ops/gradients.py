"""Gradients of what an attack maximises.

Shapes: D input shape, C classes; one example.
"""

from collections.abc import Callable

import jax

from robustbench_jax.types import Problem


def ascent(problem: Problem, loss: Callable, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Gradient [D] of the problem's objective at `x` and the logits [C] there: one forward and one backward pass."""

    def objective(x):
        logits = problem.logits(x)
        return problem.objective(loss, logits), logits

    gradient, logits = jax.grad(objective, has_aux=True)(x)
    return gradient, logits
