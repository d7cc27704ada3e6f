"""The smallest adversarial point of an attack's path: what minimal-norm attacks hand in.

They walk along the decision boundary, where float32 decides: the same model in another program (another batch width)
rounds otherwise, and the judge would refuse what the attack has seen. So a point counts from a margin on that survives
rounding: of the logits, and of every entry of the image.
Shapes: D input shape, C classes; one example.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.ops import losses
from robustbench_jax.ops.sums import total
from robustbench_jax.types import Problem, State, record

ULP = 2.0**-22  # of numbers in [1, 2), twice


@record
class Search(State):
    """x_adv is the smallest adversarial point met so far, the origin where there was none."""

    best: jax.Array  # size of x_adv - x in the budget's measure, infinite before the first success


def meet(
    problem: Problem, state: Search, z: jax.Array, logits: jax.Array, slope: jax.Array | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(z is adversarial, x_adv [D], best) after the attack has met z [D] with its logits [C].

    slope: the gradient [D] of the margin at z, where the attack has it.
    """
    margin = problem.objective(losses.margin, logits)
    found = problem.adversarial(logits) & (margin > rounding(logits, slope))
    size = problem.budget.size(z - problem.x)
    better = found & (size < state.best)
    return found, jnp.where(better, z, state.x_adv), jnp.where(better, size, state.best)


def rounding(logits: jax.Array, slope: jax.Array | None = None) -> jax.Array:
    """How far float32 may move a margin with these logits [C] and this gradient [D]."""
    images = 0.0 if slope is None else ULP * total(jnp.abs(slope))
    return 8 * ULP * jnp.max(jnp.abs(logits)) + images


def finished(state: Search, steps: int, over: jax.Array) -> Search:
    """The state; where `over` is true, with no step left."""
    return state.replace(t=jnp.where(over, jnp.asarray(steps, jnp.int32), state.t))
