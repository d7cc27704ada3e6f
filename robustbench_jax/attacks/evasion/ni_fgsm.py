"""ni_fgsm and si_fgsm: momentum that looks ahead, alone (NI) and over scaled copies of the image (SI-NI).

Reference: Lin et al., ICLR 2020, arXiv:1908.06281.
Shapes: D input shape, S copies. Written for one example; ops/drive.py adds the batch.
Departs from the paper where its authors' program does: the look-ahead is scaled by gradients divided by the mean of
their sizes; divided by their sum, as printed, it would be shorter by a factor D, and nothing. As in the paper the
point ahead is not projected; it is not what is handed in, so no step can tell success and all are taken.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.attacks.evasion.mi_fgsm import Momentum, State
from robustbench_jax.ops import gradients
from robustbench_jax.registry import register
from robustbench_jax.types import Problem, record, require_positive, static


class Nesterov(Momentum):
    def ahead(self, problem: Problem, state: State) -> jax.Array:
        """Where the velocity alone would lead, [D]."""
        stride = problem.budget.eps / self.steps
        return state.x_adv + stride * self.decay * state.velocity * state.velocity.size


@register("attack", "ni_fgsm", threat="evasion", access="gradients", paper="lin2020", budgets=("linf",))
@record
class NIFGSM(Nesterov):
    """As mi_fgsm, with each gradient taken where the velocity is about to lead."""

    steps: int = 10
    decay: float = 1.0
    loss: str = "cross_entropy"

    def step(self, key: jax.Array, problem: Problem, state: State) -> State:
        gradient, _ = gradients.ascent(problem, self.loss_function, self.ahead(problem, state))
        return self.onwards(problem, state, gradient)


@register("attack", "si_fgsm", threat="evasion", access="gradients", paper="lin2020", budgets=("linf",))
@record
class SIFGSM(Nesterov):
    """As ni_fgsm, with the mean gradient over the images x, x / 2, x / 4, ...: `copies` of them, each an evaluation."""

    steps: int = 10
    decay: float = 1.0
    copies: int = static(default=5)
    loss: str = "cross_entropy"

    def __post_init__(self):
        super().__post_init__()
        require_positive("si_fgsm", copies=self.copies)

    def step(self, key: jax.Array, problem: Problem, state: State) -> State:
        ahead, scales = self.ahead(problem, state), 0.5 ** jnp.arange(self.copies)
        each, _ = jax.vmap(lambda scale: gradients.ascent(problem, self.loss_function, scale * ahead))(scales)
        gradient = jnp.tensordot(scales, each, 1) / self.copies  # the chain rule's factor is the scale
        return self.onwards(problem, state, gradient, forwards=self.copies, gradients=self.copies)
