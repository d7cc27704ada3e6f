"""vmi_fgsm: momentum whose gradients are corrected by how much they vary around the point before.

Reference: Wang & He, CVPR 2021, arXiv:2103.15571 (variance tuning), algorithm 1.
Shapes: Z the budget's points, S samples. Written for one example; ops/drive.py adds the batch.
Departs from the paper: an example whose iterate is adversarial stops there (under transfer it takes all its steps).
Beyond Linf, whose neighbourhood is the paper's, the neighbours are uniform in a ball of `reach` times the radius.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.attacks.evasion.mi_fgsm import Momentum
from robustbench_jax.attacks.evasion.mi_fgsm import State as MomentumState
from robustbench_jax.ops import gradients
from robustbench_jax.registry import register
from robustbench_jax.types import Problem, record, require_positive, static


@record
class State(MomentumState):
    variance: jax.Array  # [Z], the neighbours' mean gradient less that of the point before


@register("attack", "vmi_fgsm", threat="evasion", access="gradients", paper="wang2021enhancing", budgets=("linf", "l2"))
@record
class VMIFGSM(Momentum):
    """samples: neighbours in each step, each an evaluation. reach: how far they lie, as a multiple of the radius."""

    steps: int = 10
    decay: float = 1.0
    samples: int = static(default=20)
    reach: float = 1.5
    loss: str = "cross_entropy"

    def __post_init__(self):
        super().__post_init__()
        require_positive("vmi_fgsm", samples=self.samples, reach=self.reach)

    def init(self, key: jax.Array, problem: Problem) -> State:
        zero = jnp.zeros_like(problem.origin)
        return State.at(problem.origin, velocity=zero, variance=zero)

    def step(self, key: jax.Array, problem: Problem, state: State) -> State:
        gradient, logits = gradients.ascent(problem, self.loss_function, state.x_adv)
        around = self._around(key, problem, state.x_adv)
        near = jnp.mean(jax.vmap(lambda z: gradients.ascent(problem, self.loss_function, z)[0])(around), axis=0)
        return self.onwards(
            problem,
            state,
            gradient + state.variance,
            done=problem.adversarial(logits),
            forwards=1 + self.samples,
            gradients=1 + self.samples,
            variance=near - gradient,
        )

    def _around(self, key: jax.Array, problem: Problem, z: jax.Array) -> jax.Array:
        """Neighbours [S, Z], uniform and not cut by the box."""
        shape, radius = (self.samples, *z.shape), self.reach * problem.budget.eps
        if problem.budget.p == jnp.inf:
            return z + radius * jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)
        where, length = jax.random.split(key)
        away = jax.random.normal(where, shape)
        away = away / jnp.sqrt(jnp.sum(away**2, axis=tuple(range(1, len(shape))), keepdims=True))
        share = jax.random.uniform(length, (self.samples, *[1] * z.ndim)) ** (1 / z.size)
        return z + radius * share * away
