"""Two points of one finite difference, asked and judged: what attacks that estimate gradients from scores share.

Shapes: D input shape, C classes. One example.
Both points are projected before they are asked: one that is adversarial ends the attack, and no query is spent on
judging the iterate itself. The estimate loses little by it: entry by entry, the two ends of a difference that a ball or
the box cuts still lie on the same line, the cut entries count half, and so does the noise that they give the others.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from robustbench_jax.types import Problem, record

ASKED = 2  # forward evaluations of one pair


@record
class Pair:
    difference: jax.Array  # objective at the first point minus objective at the second
    found: jax.Array  # bool: one of them is adversarial
    x_adv: jax.Array  # [D], which one: the first, where both are


def ask(problem: Problem, loss: Callable, first: jax.Array, second: jax.Array) -> Pair:
    """Evaluates the projections of two points [D]: two forward evaluations."""
    first, second = (problem.budget.project(problem.x, point) for point in (first, second))
    answers = problem.logits(first), problem.logits(second)
    higher, lower = (problem.objective(loss, logits) for logits in answers)
    broken, other = (problem.adversarial(logits) for logits in answers)
    return Pair(higher - lower, broken | other, jnp.where(broken, first, second))
