"""grid: every rotation and translation of a grid, one after another, until one is adversarial.

Reference: Engstrom et al., ICML 2019, arXiv:1712.02779 (31 turns by 5 x 5 shifts). Their random ones are
uniform_noise(steps=10), their first-order attack is pgd.
Shapes: Z = 3. Written for one example; ops/drive.py adds the batch.
Departs from the paper: an example ends with its first success, where they keep the highest loss of the whole grid.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.registry import register
from robustbench_jax.types import EvasionAttack, Problem, State, record, require_positive


@register("attack", "grid", threat="evasion", access="labels", paper="engstrom2019", budgets=("rotation_translation",))
@record
class Grid(EvasionAttack):
    """turns: angles from the largest either way to the other. shifts: positions along each axis. A label each."""

    turns: int = 31
    shifts: int = 5

    def __post_init__(self):
        require_positive("grid", turns=self.turns, shifts=self.shifts)

    @property
    def steps(self) -> int:
        return self.turns * self.shifts * self.shifts

    @property
    def queries(self) -> int:
        return self.steps

    def init(self, key: jax.Array, problem: Problem) -> State:
        return State.at(self.point(jnp.int32(0)))

    def step(self, key: jax.Array, problem: Problem, state: State) -> State:
        done = problem.adversarial(problem.logits(state.x_adv))
        return state.move(self.point(jnp.minimum(state.t + 1, self.steps - 1)), done=done, gradients=0)

    def point(self, number: jax.Array) -> jax.Array:
        """The grid's point z [3] of that number; the middle of an axis with one value."""
        turn, rest = number // (self.shifts * self.shifts), number % (self.shifts * self.shifts)
        where = jnp.stack([turn, rest // self.shifts, rest % self.shifts]).astype(jnp.float32)
        last = jnp.stack([jnp.asarray(n - 1, jnp.float32) for n in (self.turns, self.shifts, self.shifts)])
        return jnp.where(last > 0, 2 * where / jnp.maximum(last, 1) - 1, 0.0)
