"""apgd: PGD with momentum whose step size halves where the loss stops rising.

Reference: Croce & Hein, ICML 2020, arXiv:2003.01690 (Auto-PGD, DLR and targeted DLR losses).
Shapes: D input shape, C classes. Written for one example; ops/drive.py adds the batch.
Departs from the paper where the reference implementation does: checkpoints are truncated, not rounded up, and
condition 1 halves at exactly 75% too. Departs from both: an example whose iterate is adversarial stops there; the first
interval counts the step from the start; in L2 the projection is onto ball and box together.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from robustbench_jax.ops import gradients, losses
from robustbench_jax.registry import nearest, register
from robustbench_jax.types import EvasionAttack, Problem, UserError, record, require_positive
from robustbench_jax.types import State as BaseState

LOSSES = ("ce", "dlr", "dlr_targeted")
RISES, MOMENTUM = 0.75, 0.75


@record
class State(BaseState):
    aim: jax.Array  # the class whose logit the targeted loss raises, -1 for none
    x_old: jax.Array  # [D], the iterate before this one
    x_best: jax.Array  # [D], where the loss was highest, with its gradient and loss
    g_best: jax.Array
    loss_best: jax.Array
    loss_last: jax.Array  # at x_old
    loss_checked: jax.Array  # loss_best at the last checkpoint
    step: jax.Array  # a fraction of the radius
    halved: jax.Array  # at the last checkpoint
    rises: jax.Array  # steps since the last checkpoint that raised the loss
    since: jax.Array  # steps since the last checkpoint
    interval: jax.Array  # steps until the next one


@register("attack", "apgd", threat="evasion", access="gradients", paper="croce2020", budgets=("linf", "l2"))
@record
class APGD(EvasionAttack):
    """loss: "ce", "dlr", or "dlr_targeted" towards each of the `targets` likeliest wrong classes.

    steps: gradient evaluations of one run. restarts: independent runs (for each target class).
    """

    loss: str = "ce"
    steps: int = 100
    restarts: int = 1
    targets: int = 9

    def __post_init__(self):
        require_loss("apgd", self.loss)
        require_positive("apgd", steps=self.steps, restarts=self.restarts, targets=self.targets)

    @property
    def items(self) -> int:
        return self.restarts * self.targets if self.loss == "dlr_targeted" else self.restarts

    @property
    def called(self) -> str:
        return {"ce": "apgd_ce", "dlr": "apgd_dlr", "dlr_targeted": "apgd_t"}[self.loss]

    def init(self, key: jax.Array, problem: Problem) -> State:
        aim, asked, none = aim_of(problem, self.loss, self.restarts)
        start = jnp.where(none, problem.origin, _on_the_surface(key, problem))
        zero, low = jnp.zeros(()), jnp.full((), -jnp.inf)
        state = State.at(
            start,
            forwards=asked,
            aim=aim,
            x_old=start,
            x_best=start,
            g_best=jnp.zeros_like(start),
            loss_best=low,
            loss_last=low,
            loss_checked=low,
            step=zero + 2.0,
            halved=jnp.ones((), bool),
            rises=jnp.zeros((), jnp.int32),
            since=jnp.zeros((), jnp.int32),
            interval=jnp.maximum(22 * jnp.asarray(self.steps, jnp.int32) // 100, 1),
        )
        return state.replace(t=jnp.where(none, self.steps, state.t))

    def step(self, key: jax.Array, problem: Problem, state: State) -> State:
        gradient, logits, loss = evaluate(problem, self.loss, state.aim, state.x_adv)
        first = state.t == 0
        better = loss > state.loss_best
        state = state.replace(
            x_best=jnp.where(better, state.x_adv, state.x_best),
            g_best=jnp.where(better, gradient, state.g_best),
            loss_best=jnp.maximum(loss, state.loss_best),
            loss_checked=jnp.where(first, loss, state.loss_checked),
            rises=state.rises + (~first & (loss > state.loss_last)),
            since=state.since + ~first,
        )
        state, reset = self._checkpoint(state)
        x, g = jnp.where(reset, state.x_best, state.x_adv), jnp.where(reset, state.g_best, gradient)
        z = problem.budget.along(problem.x, x, g, state.step)
        momentum = jnp.where(first, 1.0, MOMENTUM)
        moved = problem.budget.project(problem.x, x + momentum * (z - x) + (1 - momentum) * (x - state.x_old))
        return state.move(moved, done=problem.adversarial(logits), gradient=gradient, x_old=x, loss_last=loss)

    def _checkpoint(self, state: State) -> tuple[State, jax.Array]:
        """Halves the step where the loss rose too seldom, or not at all since a checkpoint that did not halve it."""
        due = state.since >= state.interval
        seldom = state.rises <= RISES * state.interval
        stalled = ~state.halved & (state.loss_checked >= state.loss_best)
        halve = due & (seldom | stalled)
        steps = jnp.asarray(self.steps, jnp.int32)
        shorter = jnp.maximum(state.interval - jnp.maximum(3 * steps // 100, 1), jnp.maximum(6 * steps // 100, 1))
        state = state.replace(
            step=jnp.where(halve, state.step / 2, state.step),
            halved=jnp.where(due, halve, state.halved),
            loss_checked=jnp.where(due, state.loss_best, state.loss_checked),
            interval=jnp.where(due, shorter, state.interval),
            rises=jnp.where(due, 0, state.rises),
            since=jnp.where(due, 0, state.since),
        )
        return state, halve


def require_loss(owner: str, loss: str) -> None:
    if loss not in LOSSES:
        raise UserError(f"{owner}: loss = {loss!r}{nearest(loss, LOSSES)}")


def aim_of(problem: Problem, loss: str, restarts: int) -> tuple[jax.Array, int, jax.Array]:
    """(class, forward evaluations, whether there is none): the class that this item's targeted loss raises.

    Item i aims at the (i // restarts)-th likeliest wrong class of the clean image, the nearest first.
    """
    if loss != "dlr_targeted":
        return jnp.full((), -1, jnp.int32), 0, jnp.zeros((), bool)
    if problem.goal == "targeted":
        return problem.target, 0, problem.item >= restarts
    logits, rank = problem.logits(problem.origin), problem.item // restarts
    order = jnp.argsort(-logits.at[problem.y].set(-jnp.inf))
    none = rank >= len(logits) - 1
    return order[jnp.where(none, 0, rank)].astype(jnp.int32), 1, none


def evaluate(problem: Problem, loss: str, aim: jax.Array, z: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradient [D], logits [C] and loss at z: one forward and one backward pass."""
    maximised = {"ce": losses.cross_entropy, "dlr": dlr, "dlr_targeted": targeted_dlr(aim)}[loss]
    if loss == "dlr_targeted":
        problem = problem.replace(goal="untargeted")
    gradient, logits = gradients.ascent(problem, maximised, z)
    return gradient, logits, problem.objective(maximised, logits)


def dlr(logits: jax.Array, y: jax.Array) -> jax.Array:
    """The DLR loss; with two classes, where it has no scale to divide by, the margin."""
    return losses.dlr(logits, y) if len(logits) > 2 else losses.margin(logits, y)


def targeted_dlr(aim: jax.Array) -> Callable:
    """The targeted DLR loss; with three classes over z_(1) - z_(3), with two the difference of the logits alone."""

    def loss(logits, y):
        if len(logits) > 3:
            return losses.targeted_dlr(logits, y, aim)
        top = jax.lax.top_k(logits, len(logits))[0]
        scale = top[0] - top[2] + losses.TINY if len(logits) == 3 else 1.0
        return (logits[aim] - logits[y]) / scale

    return loss


def _on_the_surface(key: jax.Array, problem: Problem) -> jax.Array:
    """A random point on the ball's surface: in Linf one that touches a face, in L2 uniform on the sphere."""
    x, ball = problem.x, problem.budget
    noise = jax.random.normal(key, x.shape) if ball.p == 2 else jax.random.uniform(key, x.shape, minval=-1, maxval=1)
    return ball.project(x, x + ball.eps * noise / jnp.maximum(ball.size(noise), 1e-12))
