"""carlini_wagner and carlini_wagner_linf: Adam on size plus c times the margin, in a variable that keeps to the box.

Reference: Carlini & Wagner, S&P 2017, arXiv:1608.04644, sections VI-A (L2) and VI-C (Linf).
Shapes: D input shape, C classes. Written for one example; ops/drive.py adds the batch.
Defaults are those of the authors' program: L2 9 searches for c of 10,000 steps each, c = 0.001 at first, learning rate
0.01; Linf 1,000 steps a run, c from 0.00001 to 20 by factors of 2, tau from 1 by factors of 0.9 down to 1/256, learning
rate 0.005. kappa is 0. One step is one forward and one backward pass; a search that stalls ends early, each example on
its own. The x that Adam sees is (tanh(w) + 1) / 2: pixels at 0 and 1 start at 5e-7 from them and hardly move.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.ops import losses, smallest
from robustbench_jax.ops.adam import Moments
from robustbench_jax.ops.smallest import Search
from robustbench_jax.ops.sums import inner, total
from robustbench_jax.registry import register
from robustbench_jax.types import EvasionAttack, Problem, record, require_positive

NONE = 1e10  # an upper bound of c that is none yet
PROGRESS = 0.9999  # a loss above this share of the one a tenth of a search ago has stalled


@record
class Weight:
    """The constant c of the loss, found by bisection: smaller after a search that succeeded, larger after a failure."""

    c: jax.Array
    low: jax.Array
    high: jax.Array
    reached: jax.Array  # something adversarial was met in this search
    searches: jax.Array  # ended so far
    i: jax.Array  # steps of this search
    checked: jax.Array  # the loss a tenth of a search ago

    @classmethod
    def start(cls, c: float) -> "Weight":
        c, zero, none = jnp.asarray(c, jnp.float32), jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        return cls(c, jnp.zeros_like(c), jnp.full_like(c, NONE), none, zero, zero, jnp.full_like(c, jnp.inf))

    def after(self, loss: jax.Array, found: jax.Array, length: int, abort: bool) -> tuple["Weight", jax.Array]:
        """The weight after one step, and whether that was the last step of its search."""
        due = self.i % jnp.maximum(jnp.asarray(length, jnp.int32) // 10, 1) == 0
        stalled = due & (loss > PROGRESS * self.checked) & abort
        same = self.replace(reached=self.reached | found, i=self.i + 1, checked=jnp.where(due, loss, self.checked))
        over = stalled | (same.i >= length)
        return jax.tree.map(lambda new, old: jnp.where(over, new, old), same._narrowed(), same), over

    def _narrowed(self) -> "Weight":
        high = jnp.where(self.reached, jnp.minimum(self.high, self.c), self.high)
        low = jnp.where(self.reached, self.low, jnp.maximum(self.low, self.c))
        following = Weight.start(0.0).replace(searches=self.searches + 1, low=low, high=high)
        return following.replace(c=jnp.where(high < NONE, (low + high) / 2, self.c * 10))


@record
class State(Search):
    w: jax.Array  # [D], what Adam moves; 0 is the image
    moments: Moments
    weight: Weight


@register("attack", "carlini_wagner", threat="evasion", access="gradients", paper="carlini2017", budgets=("l2",))
@record
class CarliniWagner(EvasionAttack):
    """searches: of c, by bisection. iterations: steps of one search. c: the first. abort: end searches that stall.

    warm: a search begins where the last one ended, as in CleverHans, instead of at the image: better where searches are
    too short to converge.
    """

    searches: int = 9
    iterations: int = 10_000
    c: float = 1e-3
    learning_rate: float = 0.01
    abort: bool = True
    warm: bool = False
    minimal = True

    def __post_init__(self):
        require_positive("carlini_wagner", searches=self.searches, iterations=self.iterations, c=self.c)

    @property
    def steps(self) -> int:
        return self.searches * self.iterations

    def init(self, key: jax.Array, problem: Problem) -> State:
        none, zero = jnp.full((), jnp.inf), jnp.zeros_like(problem.x)
        return State.at(problem.origin, best=none, w=zero, moments=Moments.zero(zero), weight=Weight.start(self.c))

    def step(self, key: jax.Array, problem: Problem, state: State) -> State:
        def objective(w):
            z, logits, gap = _at(problem, w)
            d = z - problem.x
            return inner(d, d) + state.weight.c * gap, (z, logits)

        (loss, (z, logits)), gradient = jax.value_and_grad(objective, has_aux=True)(state.w)
        found, x_adv, best = smallest.meet(problem, state, z, logits)
        moments = state.moments.seen(gradient)
        w = state.w - self.learning_rate * moments.direction
        weight, over = state.weight.after(loss, found, self.iterations, self.abort)
        if not self.warm:
            w, moments = jax.tree.map(lambda leaf: jnp.where(over, jnp.zeros_like(leaf), leaf), (w, moments))
        state = state.move(x_adv, gradient=gradient, best=best, w=w, moments=moments, weight=weight)
        return smallest.finished(state, self.steps, weight.searches >= self.searches)


@record
class StateLinf(Search):
    w: jax.Array  # [D], what Adam moves; 0 is the image
    moments: Moments
    c: jax.Array
    tau: jax.Array  # entries pay for what they change beyond it
    before: jax.Array  # the best size before this run
    i: jax.Array  # steps of this run


@register("attack", "carlini_wagner_linf", threat="evasion", access="gradients", paper="carlini2017", budgets=("linf",))
@record
class CarliniWagnerLinf(EvasionAttack):
    """runs: at most; each ends with a smaller tau or a larger c. iterations: steps of one run.

    c, c_last: the first and the largest c. shrink: tau falls to this share of what was reached.
    """

    runs: int = 75
    iterations: int = 1000
    c: float = 1e-5
    c_last: float = 20.0
    shrink: float = 0.9
    learning_rate: float = 0.005
    minimal = True

    def __post_init__(self):
        require_positive("carlini_wagner_linf", runs=self.runs, iterations=self.iterations, c=self.c)

    @property
    def steps(self) -> int:
        return self.runs * self.iterations

    def init(self, key: jax.Array, problem: Problem) -> StateLinf:
        zero, one = jnp.zeros_like(problem.x), jnp.ones(())
        begun = {"w": zero, "moments": Moments.zero(zero), "i": jnp.zeros((), jnp.int32)}
        return StateLinf.at(problem.origin, best=one * jnp.inf, c=one * self.c, tau=one, before=one * jnp.inf, **begun)

    def step(self, key: jax.Array, problem: Problem, state: StateLinf) -> StateLinf:
        def objective(w):
            z, logits, gap = _at(problem, w)
            beyond = jnp.maximum(jnp.abs(z - problem.x) - state.tau, 0.0)
            return total(beyond) + state.c * gap, (z, logits)

        (loss, (z, logits)), gradient = jax.value_and_grad(objective, has_aux=True)(state.w)
        _, x_adv, best = smallest.meet(problem, state, z, logits)
        moments = state.moments.seen(gradient)
        w = state.w - self.learning_rate * moments.direction
        state = state.move(x_adv, gradient=gradient, best=best, w=w, moments=moments, i=state.i + 1)
        over = (loss < 1e-4 * state.c) | (state.i >= self.iterations)
        state = jax.tree.map(lambda new, old: jnp.where(over, new, old), self._another_run(state), state)
        return smallest.finished(state, self.steps, (state.tau <= 1 / 256) | (state.c >= self.c_last))

    def _another_run(self, state: StateLinf) -> StateLinf:
        """From where the last one ended: with a smaller tau if it found something smaller, else with a larger c."""
        reached = state.best < state.before
        return state.replace(
            moments=Moments.zero(state.w),
            c=jnp.where(reached, state.c, 2 * state.c),
            tau=jnp.where(reached, self.shrink * jnp.minimum(state.best, state.tau), state.tau),
            before=state.best,
            i=jnp.zeros((), jnp.int32),
        )


def _at(problem: Problem, w: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(image [D], logits [C], how far the margin is from 0): w is added to the image in the space of tanh."""
    z = (jnp.tanh(jnp.arctanh((2 * problem.x - 1) * (1 - 1e-6)) + w) + 1) / 2
    logits = problem.logits(z)
    return z, logits, jnp.maximum(-problem.objective(losses.margin, logits), 0.0)
