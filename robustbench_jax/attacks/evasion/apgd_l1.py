"""apgd_l1: Auto-PGD in the L1 ball, with sparse steps whose sparsity follows the perturbation's.

Reference: Croce & Hein, ICML 2021, arXiv:2103.01208 ("Mind the box").
Shapes: D input shape, C classes. Written for one example; ops/drive.py adds the batch.
Departs from the paper: an example whose iterate is adversarial stops there; of gradient entries that tie, the first
count.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.attacks.evasion.apgd import aim_of, evaluate, require_loss
from robustbench_jax.ops.balls import largest
from robustbench_jax.ops.sums import total
from robustbench_jax.registry import register
from robustbench_jax.types import EvasionAttack, Problem, record, require_positive
from robustbench_jax.types import State as BaseState

RADII = (3.0, 2.0, 1.0)  # the ball shrinks to its size in three phases of 30%, 30% and 40% of the steps
SPARSER, SHORTEST, SHORTER = 0.95, 0.1, 1.5


@record
class State(BaseState):
    aim: jax.Array  # the class whose logit the targeted loss raises, -1 for none
    x_best: jax.Array  # [D], where the loss of this phase was highest, with its gradient and loss
    g_best: jax.Array
    loss_best: jax.Array
    step: jax.Array  # a fraction of the radius
    density: jax.Array  # share of the gradient's entries that a step uses
    changed: jax.Array  # entries in which x_best differed from x at the last check
    phase: jax.Array
    moves: jax.Array  # made in this phase


@register("attack", "apgd_l1", threat="evasion", access="gradients", paper="croce2021", budgets=("l1",))
@record
class APGDL1(EvasionAttack):
    """loss: "ce", "dlr", or "dlr_targeted" towards each of the `targets` likeliest wrong classes.

    iterations: moves of one run. restarts: independent runs (for each target class). shrink: begin in three times the
    radius and shrink it in phases, with one gradient more for each.
    """

    loss: str = "ce"
    iterations: int = 100
    restarts: int = 1
    targets: int = 9
    shrink: bool = True

    def __post_init__(self):
        require_loss("apgd_l1", self.loss)
        require_positive("apgd_l1", iterations=self.iterations, restarts=self.restarts, targets=self.targets)

    @property
    def steps(self) -> int:
        return self.iterations + (len(RADII) - 1 if self.shrink else 0)

    @property
    def items(self) -> int:
        return self.restarts * self.targets if self.loss == "dlr_targeted" else self.restarts

    @property
    def called(self) -> str:
        return {"ce": "apgd_ce", "dlr": "apgd_dlr", "dlr_targeted": "apgd_t"}[self.loss]

    def init(self, key: jax.Array, problem: Problem) -> State:
        aim, asked, none = aim_of(problem, self.loss, self.restarts)
        phase = jnp.full((), 0 if self.shrink else len(RADII) - 1, jnp.int32)
        noise = problem.x + jax.random.normal(key, problem.x.shape)
        start = jnp.where(none, problem.x, _ball(problem, phase).project(problem.x, noise))
        changed = total(start != problem.x) if self.shrink else jnp.full((), start.size)
        state = State.at(
            start,
            forwards=asked,
            aim=aim,
            x_best=start,
            g_best=jnp.zeros_like(start),
            loss_best=jnp.full((), -jnp.inf),
            step=jnp.ones(()),
            density=changed / start.size / 1.5 if self.shrink else jnp.full((), 0.2),
            changed=changed.astype(jnp.int32),
            phase=phase,
            moves=jnp.zeros((), jnp.int32),
        )
        return state.replace(t=jnp.where(none, self.steps, state.t))

    def step(self, key: jax.Array, problem: Problem, state: State) -> State:
        gradient, logits, loss = evaluate(problem, self.loss, state.aim, state.x_adv)
        last = state.phase == len(RADII) - 1
        better = loss > state.loss_best
        state = state.replace(
            x_best=jnp.where(better, state.x_adv, state.x_best),
            g_best=jnp.where(better, gradient, state.g_best),
            loss_best=jnp.maximum(loss, state.loss_best),
        )
        length = self._length(state.phase)
        state, reset = self._check(problem, state, jnp.maximum(4 * length // 100, 1))
        x, g = jnp.where(reset, state.x_best, state.x_adv), jnp.where(reset, state.g_best, gradient)
        moved = _along(problem, state, x, g)
        over = (state.moves >= length) & ~last
        state = state.move(moved, done=problem.adversarial(logits) & last, gradient=gradient, moves=state.moves + 1)
        return jax.tree.map(lambda new, old: jnp.where(over & ~state.done, new, old), _next(problem, state), state)

    def _length(self, phase: jax.Array) -> jax.Array:
        """Moves of a phase: 30% of them, rounded up, in the first two."""
        total = jnp.asarray(self.iterations, jnp.int32)
        early = (3 * total + 9) // 10 if self.shrink else jnp.zeros((), jnp.int32)
        return jnp.where(phase < len(RADII) - 1, early, total - 2 * early)

    def _check(self, problem: Problem, state: State, every: jax.Array) -> tuple[State, jax.Array]:
        """Every few moves: where the best perturbation has grown sparser, from there with the longest step again."""
        due = (state.moves > 0) & (state.moves % every == 0)
        changed = total(state.x_best != problem.x).astype(jnp.int32)
        sparser = changed < SPARSER * state.changed
        step = jnp.where(sparser, 1.0, jnp.maximum(state.step / SHORTER, SHORTEST))
        state = state.replace(
            step=jnp.where(due, step, state.step),
            density=jnp.where(due, changed / problem.x.size / 1.5, state.density),
            changed=jnp.where(due, changed, state.changed),
        )
        return state, due & sparser


def _ball(problem: Problem, phase: jax.Array):
    return problem.budget.replace(eps=problem.budget.eps * jnp.asarray(RADII)[phase])


def _along(problem: Problem, state: State, x: jax.Array, g: jax.Array) -> jax.Array:
    """A step along the signs of the largest entries of the gradient."""
    ball, size = _ball(problem, state.phase), x.size
    kept = size - jnp.clip(jnp.floor((1 - state.density) * size), 0, size - 1)
    signs = jnp.where(largest(jnp.abs(g), kept), jnp.sign(g), 0.0)
    return ball.project(problem.x, x + state.step * ball.eps * signs / (total(jnp.abs(signs)) + 1e-10))


def _next(problem: Problem, state: State) -> State:
    """The start of the next phase: the best point of this one, projected onto the smaller ball."""
    phase = jnp.minimum(state.phase + 1, len(RADII) - 1)
    x = _ball(problem, phase).project(problem.x, state.x_best)
    changed = total(x != problem.x).astype(jnp.int32)
    return state.replace(
        x_adv=x,
        x_best=x,
        loss_best=jnp.full((), -jnp.inf),
        step=jnp.ones(()),
        density=changed / x.size / 1.5,
        changed=changed,
        phase=phase,
        moves=jnp.zeros((), jnp.int32),
    )
