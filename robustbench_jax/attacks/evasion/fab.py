"""fab and fab_targeted: steps to the linearised decision boundary, pulled back towards the image.

Reference: Croce & Hein, ICML 2020, arXiv:1907.02044 (fast adaptive boundary); one target class at a time as in
AutoAttack, Croce & Hein, ICML 2020, arXiv:2003.01690.
Shapes: D input shape, C classes. Written for one example; ops/drive.py adds the batch.
Departs from the paper: no final search along the segment to the image, as in AutoAttack; random starts lie at up to
half of eps, whatever earlier restarts found.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.attacks.evasion.apgd import aim_of
from robustbench_jax.ops import hyperplane
from robustbench_jax.ops.sums import inner, total
from robustbench_jax.registry import register
from robustbench_jax.types import EvasionAttack, Problem, record, require_positive
from robustbench_jax.types import State as BaseState

TINY = 1e-12


@record
class State(BaseState):
    z: jax.Array  # [D], the point that searches; x_adv is the best one found
    best: jax.Array  # size of x_adv - x, infinite before the first success
    aim: jax.Array  # the class whose boundary is approached, -1 for the nearest


@record
class _FAB(EvasionAttack):
    """steps: of one run, each two forward evaluations. restarts: the first begins at the image. alpha_max: how much of
    a step may go to the image's own projection; eta: over-relaxation; beta: how far a success keeps from the image.
    first: stop at the first success within eps instead of looking for the smallest.
    """

    steps: int = 100
    restarts: int = 1
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9
    first: bool = False
    aimed = False

    def __post_init__(self):
        require_positive(self.registered[1], steps=self.steps, restarts=self.restarts, eta=self.eta, beta=self.beta)

    @property
    def minimal(self) -> bool:
        return not self.first

    @property
    def items(self) -> int:
        return self.restarts

    def init(self, key: jax.Array, problem: Problem) -> State:
        aim, asked, none = aim_of(problem, "dlr_targeted" if self.aimed else "", self.restarts)
        again = problem.item % self.restarts > 0
        state = State.at(
            problem.x,
            forwards=asked,
            z=jnp.where(again & ~none, _random_start(key, problem), problem.x),
            best=jnp.full((), jnp.inf),
            aim=problem.target if problem.goal == "targeted" else aim,
        )
        return state.replace(t=jnp.where(none, self.steps, state.t))

    def step(self, key: jax.Array, problem: Problem, state: State) -> State:
        difference, w, asked = self._boundary(problem, state)
        x, z, ball = problem.x, state.z, problem.budget
        d_z = hyperplane.step(ball.p, z, w, difference)
        d_x = hyperplane.step(ball.p, x, w, difference + inner(w, x - z))
        size_z, size_x = jnp.maximum(ball.size(d_z), 1e-8), jnp.maximum(ball.size(d_x), 1e-8)
        alpha = jnp.minimum(size_z / (size_z + size_x), self.alpha_max)
        z = jnp.clip((z + self.eta * d_z) * (1 - alpha) + (x + self.eta * d_x) * alpha, 0.0, 1.0)
        found = problem.adversarial(problem.logits(z))
        size = ball.size(z - x)
        better = found & (size < state.best)
        moved = state.move(
            jnp.where(better, z, state.x_adv),
            forwards=2,
            gradients=asked,
            gradient=w,
            z=jnp.where(found, x + self.beta * (z - x), z),
            best=jnp.where(better, size, state.best),
        )
        return moved.replace(done=better & (size <= ball.eps) if self.first else state.done)

    def _boundary(self, problem: Problem, state: State) -> tuple[jax.Array, jax.Array, int]:
        """(f, gradient [D] of f, backward passes) at z; f is how far the logit to leave is above the one to reach."""
        if self.aimed or problem.goal == "targeted":
            f, w = jax.value_and_grad(lambda z: _lead(problem, problem.logits(z), state.aim))(state.z)
            return f, w, 1
        logits, pull = jax.vjp(problem.logits, state.z)
        others = (problem.y + 1 + jnp.arange(len(logits) - 1)) % len(logits)
        lead = jax.nn.one_hot(problem.y, len(logits)) - jax.nn.one_hot(others, len(logits))  # [C - 1, C]
        w = jax.vmap(lambda row: pull(row)[0])(lead)
        f = logits[problem.y] - logits[others]
        nearest = jnp.argmin(jnp.abs(f) / (jax.vmap(lambda g: _dual(problem.budget.p, g))(w) + TINY))
        return f[nearest], w[nearest], len(others)


@register("attack", "fab", threat="evasion", access="gradients", paper="croce2020fab", budgets=("linf", "l2", "l1"))
@record
class FAB(_FAB):
    """Towards the nearest of all boundaries: one backward pass a wrong class and step."""


@register(
    "attack", "fab_targeted", threat="evasion", access="gradients", paper="croce2020fab", budgets=("linf", "l2", "l1")
)
@record
class FABTargeted(_FAB):
    """Towards the boundary of each of the `targets` likeliest wrong classes, one backward pass a step."""

    targets: int = 9
    aimed = True

    def __post_init__(self):
        super().__post_init__()
        require_positive("fab_targeted", targets=self.targets)

    @property
    def items(self) -> int:
        return self.restarts * self.targets

    @property
    def called(self) -> str:
        return "fab_t"


def _lead(problem: Problem, logits: jax.Array, aim: jax.Array) -> jax.Array:
    """How far the class to leave is above the class to reach: y above aim, or the likeliest other above the target."""
    if problem.goal == "untargeted":
        return logits[problem.y] - logits[aim]
    return jnp.max(logits.at[aim].set(-jnp.inf)) - logits[aim]


def _dual(p: float, g: jax.Array) -> jax.Array:
    if p == 2:
        return jnp.sqrt(inner(g, g))
    return jnp.max(jnp.abs(g)) if p == 1 else total(jnp.abs(g))


def _random_start(key: jax.Array, problem: Problem) -> jax.Array:
    ball, x = problem.budget, problem.x
    noise = jax.random.uniform(key, x.shape, minval=-1, maxval=1) if ball.p > 2 else jax.random.normal(key, x.shape)
    return jnp.clip(x + 0.5 * ball.eps * noise / jnp.maximum(ball.size(noise), TINY), 0.0, 1.0)
