"""mi_fgsm: FGSM in several steps with momentum, whose adversarial images transfer better between models.

Reference: Dong et al., CVPR 2018, arXiv:1710.06081; against an ensemble, transfer(mi_fgsm, sources=[...]).
Shapes: Z the budget's points. Written for one example; ops/drive.py adds the batch.
Departs from the paper: an example whose iterate is adversarial stops there (under transfer it takes all its steps).
"""

from typing import Any

import jax
import jax.numpy as jnp

from robustbench_jax.ops import gradients
from robustbench_jax.ops.sums import total
from robustbench_jax.registry import entry, register
from robustbench_jax.types import EvasionAttack, Problem, record, require_positive
from robustbench_jax.types import State as BaseState

TINY = 1e-30


@record
class State(BaseState):
    velocity: jax.Array  # [Z], the decaying sum of gradients, each divided by its L1 norm


class Momentum(EvasionAttack):
    """What the family shares: from the image itself, `steps` moves of radius / steps along the velocity.

    A member has the fields steps, decay and loss, and a step that ends in `onwards`.
    """

    def __post_init__(self):
        require_positive(self.registered[1], steps=self.steps)
        entry("loss", self.loss)

    @property
    def loss_function(self) -> Any:
        return entry("loss", self.loss).make

    def init(self, key: jax.Array, problem: Problem) -> State:
        return State.at(problem.origin, velocity=jnp.zeros_like(problem.origin))

    def onwards(self, problem: Problem, state: State, gradient: jax.Array, **spent: Any) -> State:
        """One step along the new velocity; `spent` goes to State.move."""
        velocity = self.decay * state.velocity + unit(gradient)
        z = problem.budget.along(problem.x, state.x_adv, velocity, 1.0 / self.steps)
        return state.move(z, gradient=gradient, velocity=velocity, **spent)


@register("attack", "mi_fgsm", threat="evasion", access="gradients", paper="dong2018")
@record
class MIFGSM(Momentum):
    """steps: gradient evaluations. decay: of the velocity, 0 for the basic iterative method."""

    steps: int = 10
    decay: float = 1.0
    loss: str = "cross_entropy"

    def step(self, key: jax.Array, problem: Problem, state: State) -> State:
        gradient, logits = gradients.ascent(problem, self.loss_function, state.x_adv)
        return self.onwards(problem, state, gradient, done=problem.adversarial(logits))


def unit(gradient: jax.Array) -> jax.Array:
    """gradient / ||gradient||_1 of this one example: a sum over its entries, no mean and none over a batch."""
    return gradient / (total(jnp.abs(gradient)) + TINY)
