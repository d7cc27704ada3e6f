"""ddn: gradient steps on a sphere around the image, which shrinks after a success and grows after a failure.

Reference: Rony et al., CVPR 2019, arXiv:1811.09600 (decoupling direction and norm), algorithm 1.
Shapes: D input shape, C classes. Written for one example; ops/drive.py adds the batch.
Defaults are the paper's: radius 1 at first, gamma 0.05, step size from 1 to 0.01 along a cosine, 100 steps, images of
256 levels (levels=0: no rounding). One step is one forward and one backward pass.
Departs from the paper: the radius never exceeds the distance to the farthest corner of the box, as in the authors'
program.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.ops import gradients, losses, smallest
from robustbench_jax.ops.smallest import Search
from robustbench_jax.ops.sums import inner
from robustbench_jax.registry import register
from robustbench_jax.types import EvasionAttack, Problem, record, require_positive

TINY = 1e-12


@record
class State(Search):
    z: jax.Array  # [D], the iterate
    radius: jax.Array  # of the sphere that it lies on, but for the box


@register("attack", "ddn", threat="evasion", access="gradients", paper="rony2019", budgets=("l2",))
@record
class DDN(EvasionAttack):
    """gamma: share by which the radius changes in a step. radius: the first one, in L2.

    step_size: of the first step, in L2; the last is a hundredth of it. levels: the values that a pixel may take.
    """

    steps: int = 100
    gamma: float = 0.05
    radius: float = 1.0
    step_size: float = 1.0
    levels: int = 256
    minimal = True

    def __post_init__(self):
        require_positive("ddn", steps=self.steps, gamma=self.gamma, radius=self.radius, step_size=self.step_size)

    def init(self, key: jax.Array, problem: Problem) -> State:
        radius = jnp.asarray(self.radius, jnp.float32)
        return State.at(problem.origin, best=jnp.full((), jnp.inf), z=problem.origin, radius=radius)

    def step(self, key: jax.Array, problem: Problem, state: State) -> State:
        x = problem.x
        gradient, logits = gradients.ascent(problem, losses.cross_entropy, state.z)
        found, x_adv, best = smallest.meet(problem, state, state.z, logits, gradient)
        size = jnp.sqrt(inner(gradient, gradient))
        uphill = jnp.where(size > TINY, gradient / jnp.maximum(size, TINY), jax.random.normal(key, x.shape))
        d = state.z - x + self.step_size * annealed(state.t, self.steps, 0.01) * uphill
        corner = jnp.maximum(x, 1 - x)
        radius = jnp.where(found, 1 - self.gamma, 1 + self.gamma) * state.radius
        radius = jnp.minimum(radius, jnp.sqrt(inner(corner, corner)))
        z = jnp.clip(x + d * radius / jnp.maximum(jnp.sqrt(inner(d, d)), TINY), 0.0, 1.0)
        return state.move(x_adv, gradient=gradient, best=best, z=_rounded(z, self.levels), radius=radius)


def annealed(t: jax.Array, steps: int, last: float) -> jax.Array:
    """1 at t = 0, falling along a half cosine towards `last` at t = steps."""
    return last + (1 - last) * (1 + jnp.cos(jnp.pi * t / steps)) / 2


def _rounded(z: jax.Array, levels: int) -> jax.Array:
    steps = jnp.maximum(levels - 1, 1)
    return jnp.where(levels > 1, jnp.round(z * steps) / steps, z)
