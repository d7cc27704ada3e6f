"""SimBA: steps along vectors of an orthonormal basis, kept where the loss rises; one query each.

Reference: Guo et al., ICML 2019, arXiv:1905.07121.
Shapes: D = [H, W, C] input shape, any for the pixel basis. Written for one example; ops/drive.py adds the batch.
Departs from the paper: steps are projected onto the ball (the paper bounds the L2 norm by the number of steps); a step
that the ball and the box undo is not asked; after the last vector it begins again with the first; low frequencies come
first and the others follow, where the paper leaves them out.
"""

import math

import jax
import jax.numpy as jnp

from robustbench_jax.ops.balls import Ball
from robustbench_jax.ops.losses import cross_entropy
from robustbench_jax.ops.sums import total
from robustbench_jax.registry import nearest, register
from robustbench_jax.types import EvasionAttack, Problem, UserError, record, require_positive
from robustbench_jax.types import State as BaseState

BASES = ("pixel", "dct")


@record
class State(BaseState):
    loss: jax.Array  # the objective at x_adv
    order: jax.Array  # int32 [D.size], in which the basis vectors are tried
    tried: jax.Array  # how many of them are done with
    back: jax.Array  # bool: the step forth along the present one has failed


@register("attack", "simba", threat="evasion", access="scores", paper="guo2019", budgets=("linf", "l2"))
@record
class SimBA(EvasionAttack):
    """queries: forward evaluations of one run, the one of the image itself included.

    basis: "pixel" (one entry at a time) or "dct" (one frequency of one channel). step_size: L2 length of a step, in
    units of the box; 0.2 where it is not given, as in the paper, and a fifth of the radius in L2. low: which share of
    the frequencies of each axis is tried first.
    """

    queries: int = 5000
    step_size: float | None = None
    basis: str = "pixel"
    low: float = 0.125

    def __post_init__(self):
        require_positive("simba", queries=self.queries, step_size=self.step_size, low=self.low)
        if self.basis not in BASES:
            raise UserError(f"simba: no basis '{self.basis}'{nearest(self.basis, BASES)}")
        if isinstance(self.low, float) and self.low > 1:
            raise UserError(f"simba: low = {self.low} must be at most 1")

    @property
    def steps(self) -> int:
        return self.queries

    def init(self, key: jax.Array, problem: Problem) -> State:
        x = problem.x
        if self.basis == "dct" and x.ndim != 3:
            raise UserError(f"simba(basis='dct') needs images [H, W, C]; got {list(x.shape)}; use basis='pixel'")
        logits, zero = problem.logits(x), jnp.zeros((), jnp.int32)
        state = State.at(
            x,
            forwards=1,
            loss=problem.objective(cross_entropy, logits),
            order=self._order(key, x.shape),
            tried=zero,
            back=jnp.zeros((), bool),
        )
        return state.replace(done=problem.adversarial(logits), t=zero + 1)

    def step(self, key: jax.Array, problem: Problem, state: State) -> State:
        number = state.order[state.tried % problem.x.size]
        direction = self._length(problem.budget) * self._vector(number, problem.x.shape)
        forth, back = (problem.budget.project(problem.x, state.x_adv + s * direction) for s in (1, -1))
        backwards = state.back | ~_differs(forth, state.x_adv)
        x_new = jnp.where(backwards, back, forth)
        logits = problem.logits(x_new)
        loss, found = problem.objective(cross_entropy, logits), problem.adversarial(logits)
        better = (loss > state.loss) | found
        over = better | backwards | ~_differs(back, state.x_adv)
        moved = state.move(
            jnp.where(better, x_new, state.x_adv),
            gradients=0,
            loss=jnp.where(better, loss, state.loss),
            tried=state.tried + over,
            back=~over,
        )
        return moved.replace(done=found)

    def _order(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """All vectors of the basis in random order; of the DCT, first those of low frequency."""
        rank = jax.random.uniform(key, shape)
        if self.basis == "dct":
            rows, columns = (jnp.arange(n) < jnp.ceil(self.low * n) for n in shape[:2])
            rank = rank + ~(rows[:, None, None] & columns[None, :, None])
        return jnp.argsort(rank.ravel()).astype(jnp.int32)

    def _length(self, ball: Ball) -> jax.Array | float:
        if self.step_size is not None:
            return self.step_size
        return 0.2 if math.isinf(ball.p) else 0.2 * ball.eps

    def _vector(self, number: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """The basis vector of that number [D], of L2 norm 1."""
        if self.basis == "pixel":
            return (jnp.arange(math.prod(shape)) == number).astype(jnp.float32).reshape(shape)
        height, width, channels = shape
        row, column, channel = number // (width * channels), number // channels % width, number % channels
        wave = _cosine(row, height)[:, None] * _cosine(column, width)[None, :]
        return wave[..., None] * (jnp.arange(channels) == channel)


def _cosine(frequency: jax.Array, length: int) -> jax.Array:
    """The vector [length] of the orthonormal DCT-II of that frequency."""
    wave = jnp.cos(jnp.pi * (jnp.arange(length) + 0.5) * frequency / length)
    return wave * jnp.sqrt(jnp.where(frequency == 0, 1.0, 2.0) / length)


def _differs(a: jax.Array, b: jax.Array) -> jax.Array:
    return total(a != b) > 0
