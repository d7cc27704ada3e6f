"""deepfool: steps to the nearest of the linearised class boundaries until one is crossed.

Reference: Moosavi-Dezfooli, Fawzi & Frossard, CVPR 2016, arXiv:1511.04599, algorithm 2 and section 3.3 (other norms).
Shapes: D input shape, C classes. Written for one example; ops/drive.py adds the batch.
Defaults are the paper's: 50 steps at most, overshoot 0.02. One step is one forward and C backward passes (one where
there is a target). Departs from the paper: points are clipped to the box; as in the authors' program the model is asked
at the overshot point, and a step is longer by 1e-4, without which it may end on the boundary.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.ops import losses, smallest
from robustbench_jax.ops.smallest import Search
from robustbench_jax.ops.sums import inner, total
from robustbench_jax.registry import register
from robustbench_jax.types import EvasionAttack, Problem, record, require_positive

TINY = 1e-12


@record
class State(Search):
    z: jax.Array  # [D], the iterate


@register(
    "attack", "deepfool", threat="evasion", access="gradients", paper="moosavidezfooli2016", budgets=("linf", "l2")
)
@record
class DeepFool(EvasionAttack):
    """steps: at most; the first success ends the search. overshoot: share of a step by which it goes too far."""

    steps: int = 50
    overshoot: float = 0.02
    minimal = True

    def __post_init__(self):
        require_positive("deepfool", steps=self.steps)

    def init(self, key: jax.Array, problem: Problem) -> State:
        return State.at(problem.origin, best=jnp.full((), jnp.inf), z=problem.origin)

    def step(self, key: jax.Array, problem: Problem, state: State) -> State:
        logits, lead, w, asked = _nearest(problem, state.z)
        found, x_adv, best = smallest.meet(problem, state, state.z, logits, w)
        d = _step(problem.budget.p, w, jnp.abs(lead))
        z = jnp.clip(state.z - (1 + self.overshoot) * d, 0.0, 1.0)
        state = state.move(x_adv, gradients=asked, gradient=w, best=best, z=z)
        return smallest.finished(state, self.steps, found)


def _nearest(problem: Problem, z: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, int]:
    """(logits [C], f, gradient [D] of f, backward passes): f is how far the class to leave leads at the nearest
    boundary, in the budget's norm.
    """
    logits, pull = jax.vjp(problem.logits, z)
    if problem.goal == "targeted":
        lead, slope = jax.value_and_grad(lambda v: -problem.objective(losses.margin, v))(logits)
        return logits, lead, pull(slope)[0], 1
    lead, slopes = jax.vmap(lambda k: jax.value_and_grad(lambda v: v[problem.y] - v[k])(logits))(
        jnp.arange(len(logits))
    )
    w = jax.vmap(lambda slope: pull(slope)[0])(slopes)
    distance = jnp.abs(lead) / (jax.vmap(lambda g: _dual(problem.budget.p, g))(w) + TINY)
    nearest = jnp.argmin(jnp.where(jnp.arange(len(logits)) == problem.y, jnp.inf, distance))
    return logits, lead[nearest], w[nearest], len(logits)


def _step(p: float, w: jax.Array, lead: jax.Array) -> jax.Array:
    """The shortest d [D] with <w, d> = lead, and 1e-4 more."""
    size = jnp.maximum(_dual(p, w), TINY)
    return (lead / size + 1e-4) * (w / size if p == 2 else jnp.sign(w))


def _dual(p: float, g: jax.Array) -> jax.Array:
    return jnp.sqrt(inner(g, g)) if p == 2 else total(jnp.abs(g))
