"""ead: L1 and L2 size plus c times the margin, minimised by accelerated iterative shrinkage (FISTA).

Reference: Chen, Sharma, Zhang, Yi & Hsieh, AAAI 2018, arXiv:1709.04114 (elastic-net attacks), algorithm 1.
Shapes: D input shape, C classes. Written for one example; ops/drive.py adds the batch.
Defaults are the paper's: 9 searches for c of 1,000 steps each, c = 0.001 at first, beta = 0.001, learning rate 0.01
that falls as a square root, kappa 0, the smallest L1 size wins (their "L1 rule"). One step is two forward passes and
one backward pass: the gradient is taken at the extrapolated point, success is judged at the shrunk one.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.attacks.evasion.carlini_wagner import Weight
from robustbench_jax.ops import losses, smallest
from robustbench_jax.ops.smallest import Search
from robustbench_jax.ops.sums import inner
from robustbench_jax.registry import register
from robustbench_jax.types import EvasionAttack, Problem, record, require_positive


@record
class State(Search):
    z: jax.Array  # [D], the shrunk iterate
    y: jax.Array  # [D], extrapolated from the last two of them
    weight: Weight


@register("attack", "ead", threat="evasion", access="gradients", paper="chen2018", budgets=("l1",))
@record
class EAD(EvasionAttack):
    """searches: of c, by bisection. iterations: steps of one search. c: the first one. beta: the weight of the L1 size.

    abort: end searches that stall, which the paper does not.
    """

    searches: int = 9
    iterations: int = 1000
    c: float = 1e-3
    beta: float = 1e-3
    learning_rate: float = 0.01
    abort: bool = False
    minimal = True

    def __post_init__(self):
        require_positive("ead", searches=self.searches, iterations=self.iterations, c=self.c)

    @property
    def steps(self) -> int:
        return self.searches * self.iterations

    def init(self, key: jax.Array, problem: Problem) -> State:
        x = problem.origin
        return State.at(x, best=jnp.full((), jnp.inf), z=x, y=x, weight=Weight.start(self.c))

    def step(self, key: jax.Array, problem: Problem, state: State) -> State:
        x, i = problem.x, state.weight.i

        def objective(y):
            gap = jnp.maximum(-problem.objective(losses.margin, problem.logits(y)), 0.0)
            return inner(y - x, y - x) + state.weight.c * gap

        loss, gradient = jax.value_and_grad(objective)(state.y)
        rate = self.learning_rate * jnp.sqrt(1 - i / self.iterations)
        z = _shrunk(x, state.y - rate * gradient, self.beta)
        y = z + i / (i + 3.0) * (z - state.z)
        found, x_adv, best = smallest.meet(problem, state, z, problem.logits(z))
        weight, over = state.weight.after(loss, found, self.iterations, self.abort)
        z, y = jnp.where(over, x, z), jnp.where(over, x, y)
        state = state.move(x_adv, forwards=2, gradient=gradient, best=best, z=z, y=y, weight=weight)
        return smallest.finished(state, self.steps, weight.searches >= self.searches)


def _shrunk(x: jax.Array, z: jax.Array, beta: float) -> jax.Array:
    """z with every entry moved by beta towards x, as far as x, and clipped to the box."""
    d = z - x
    return jnp.where(jnp.abs(d) <= beta, x, jnp.clip(z - beta * jnp.sign(d), 0.0, 1.0))
