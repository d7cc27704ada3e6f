"""pdpgd: descent on the size and on the classification constraint, ascent on the constraint's weight.

Reference: Matyasko & Chau, 2021, arXiv:2106.01538 (primal-dual gradient descent in L2, proximal in the other norms);
proximal Adam as in Melchior, Joseph & Moolekamp, 2019, arXiv:1910.10094.
Shapes: D input shape, C classes. Written for one example; ops/drive.py adds the batch.
Defaults are the paper's: 500 steps, learning rates from 0.1 to 0.001 (the perturbation, exponentially) and from 0.1
to 0.01 (the weight, linearly), ratio of size to constraint 0.01 at first, weights averaged with 0.9, 5 proximal steps.
In L0 the L2/3 norm stands for the count, and entries are counted, not pixels. One step is one forward and one backward
pass.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.ops import gradients, losses, smallest
from robustbench_jax.ops.adam import Moments
from robustbench_jax.ops.smallest import Search
from robustbench_jax.ops.sums import inner, total
from robustbench_jax.registry import register
from robustbench_jax.types import EvasionAttack, Problem, record, require_positive

PROXIMAL, NEWTON, LIMIT, AVERAGE = 5, 12, 13.815510558, 0.9  # LIMIT: log of the largest ratio of the weights, 1e6


@record
class State(Search):
    d: jax.Array  # [D], the perturbation
    moments: Moments
    dual: jax.Array  # log of the constraint's weight over the size's
    share: jax.Array  # the constraint's share of both, averaged over the steps


@register("attack", "pdpgd", threat="evasion", access="gradients", paper="matyasko2021")
@record
class PDPGD(EvasionAttack):
    """learning_rate, dual_rate: of the perturbation and of the log weight. ratio: size to constraint at first."""

    steps: int = 500
    learning_rate: float = 0.1
    dual_rate: float = 0.1
    ratio: float = 0.01
    minimal = True

    def __post_init__(self):
        require_positive("pdpgd", steps=self.steps, learning_rate=self.learning_rate, ratio=self.ratio)

    def init(self, key: jax.Array, problem: Problem) -> State:
        dual = -jnp.log(jnp.asarray(self.ratio, jnp.float32))
        return State.at(
            problem.origin,
            best=jnp.full((), jnp.inf),
            d=jnp.zeros_like(problem.x),
            moments=Moments.zero(problem.x),
            dual=dual,
            share=jax.nn.sigmoid(dual),
        )

    def step(self, key: jax.Array, problem: Problem, state: State) -> State:
        x, done = problem.x, state.t / self.steps
        z = x + state.d
        slope, logits = gradients.ascent(problem, losses.margin, z)
        uphill = slope * jax.nn.sigmoid(-problem.objective(losses.margin, logits))  # of -softplus(-margin)
        found, x_adv, best = smallest.meet(problem, state, z, logits, slope)
        rate = self.learning_rate * 0.01**done
        if problem.budget.p == 2:
            outward = state.d / jnp.maximum(jnp.sqrt(inner(state.d, state.d)), 1e-30)
            moments = state.moments.seen((1 - state.share) * outward - state.share * uphill)
            d = jnp.clip(z - rate * moments.direction, 0.0, 1.0) - x
        else:
            moments = state.moments.seen(-uphill)
            d = jnp.clip(z - rate * moments.direction, 0.0, 1.0) - x
            d = _proximal(problem, d, moments.scale, rate * (1 - state.share) / state.share)
        late = state.t / jnp.maximum(jnp.asarray(self.steps, jnp.float32) - 1, 1)
        dual = state.dual + self.dual_rate * (1 - 0.9 * late) * jnp.where(found, -1.0, 1.0)
        dual = jnp.clip(dual, -LIMIT, LIMIT)
        share = AVERAGE * state.share + (1 - AVERAGE) * jax.nn.sigmoid(dual)
        return state.move(x_adv, gradient=slope, best=best, d=d, moments=moments, dual=dual, share=share)


def _proximal(problem: Problem, d: jax.Array, scale: jax.Array, weight: jax.Array) -> jax.Array:
    """The d' [D] that minimises size(d') * weight + half the squared distance to d, measured with Adam's scale."""
    largest = jnp.max(scale)
    shrink, h, z = _PROXIMAL[problem.budget.p], scale / largest, d
    for _ in range(PROXIMAL):
        z = shrink(z - h * (z - d), weight / largest)
        z = jnp.clip(problem.x + z, 0.0, 1.0) - problem.x
    return z


def _l1(d: jax.Array, weight: jax.Array) -> jax.Array:
    return jnp.sign(d) * jnp.maximum(jnp.abs(d) - weight, 0.0)


def _linf(d: jax.Array, weight: jax.Array) -> jax.Array:
    """d clipped to [-t, t], where the clipped-off parts sum to `weight`; Newton's method in t comes from below."""
    size = jnp.abs(d)

    def newton(_, t):
        excess, count = total(jnp.maximum(size - t, 0.0)), total(size > t)
        return t + jnp.maximum(excess - weight, 0.0) / jnp.maximum(count, 1.0)

    t = jax.lax.fori_loop(0, NEWTON, newton, jnp.zeros_like(weight), unroll=True)
    return jnp.clip(d, -t, t)


def _l_two_thirds(d: jax.Array, weight: jax.Array) -> jax.Array:
    """Minimises weight * |z|^(2/3) + (z - d)^2 / 2: z^(1/3) is a root of u^4 - |d| u + 2 weight / 3."""
    size = jnp.abs(d)
    inside = jnp.sqrt(jnp.maximum(size**4 / 256 - 8 * weight**3 / 729, 0.0))
    b = 2 * (jnp.cbrt(size**2 / 16 + inside) + jnp.cbrt(size**2 / 16 - inside))
    root = jnp.sqrt(jnp.maximum(b, 1e-30))
    z = ((root + jnp.sqrt(jnp.maximum(2 * size / root - b, 0.0))) / 2) ** 3
    return jnp.where(size > 2 / 3 * (24 * weight**3) ** 0.25, jnp.sign(d) * z, 0.0)


_PROXIMAL = {jnp.inf: _linf, 1: _l1, 0: _l_two_thirds}
