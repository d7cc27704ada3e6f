"""patch_rs: random search for a patch and its place from scores alone.

Reference: Sparse-RS, Croce et al., AAAI 2022, arXiv:2006.12834 (image- and location-specific patches).
Shapes: h, w, C the patch. Written for one example; ops/drive.py adds the batch.
Settings are those of the authors' program: stripes to begin with; a square of the patch changes each channel by one
of -1 and 1 before the box cuts it; every fifth proposal (tenth after 1,000, ...) moves the patch instead, by at most
3/4 of the image, ever less; a proposal that is no better is taken back.
Departs from it: positions are drawn for each example alone; the lowest row and the last column are places too.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.ops import losses
from robustbench_jax.ops.patches import join
from robustbench_jax.registry import register
from robustbench_jax.types import EvasionAttack, Problem, record, require_positive
from robustbench_jax.types import State as BaseState

UNTIL = (10, 50, 200, 500, 1000, 4000, 8000)  # of 10,000 proposals, where the share of the patch halves


@record
class State(BaseState):
    loss: jax.Array  # at x_adv, the best so far


@register("attack", "patch_rs", threat="evasion", access="scores", paper="croce2022sparse", budgets=("patch",))
@record
class PatchRS(EvasionAttack):
    """queries: forward evaluations of one run. share: of the patch that the first squares cover. restarts: runs."""

    queries: int = 1000
    share: float = 0.4
    restarts: int = 1

    def __post_init__(self):
        require_positive("patch_rs", queries=self.queries, share=self.share, restarts=self.restarts)

    @property
    def steps(self) -> int:
        return self.queries

    @property
    def items(self) -> int:
        return self.restarts

    def init(self, key: jax.Array, problem: Problem) -> State:
        colours, place = jax.random.split(key)
        height, width, channels = problem.budget.height, problem.budget.width, problem.x.shape[-1]
        stripes = jax.random.bernoulli(colours, 0.5, (1, width, channels)).astype(jnp.float32)
        at = jax.random.uniform(place, (2,))
        z = join(jnp.broadcast_to(stripes, (height, width, channels)), jnp.append(at, 1.0))
        return State.at(z, loss=jnp.full((), -jnp.inf))

    def step(self, key: jax.Array, problem: Problem, state: State) -> State:
        """The first asks for the stripes; each other one for a proposal."""
        proposal = jnp.where(state.t == 0, state.x_adv, self._proposal(key, problem, state))
        logits = problem.logits(proposal)
        loss, done = problem.objective(losses.margin, logits), problem.adversarial(logits)
        better = (loss > state.loss) | done
        moved = state.move(
            jnp.where(better, proposal, state.x_adv), gradients=0, loss=jnp.where(better, loss, state.loss)
        )
        return moved.replace(done=done)

    def _proposal(self, key: jax.Array, problem: Problem, state: State) -> jax.Array:
        corner, colour, shift = jax.random.split(key, 3)
        pixels, place = problem.budget.split(problem.x, state.x_adv)
        recoloured = self._square(corner, pixels, state.t)
        signs = jax.random.rademacher(colour, pixels.shape[-1:], jnp.float32)
        painted = jnp.where(recoloured, jnp.clip(pixels + signs, 0.0, 1.0), pixels)
        reach = jnp.floor(0.75 * jnp.maximum(1 - state.t / self.queries, 0) * problem.x.shape[0])
        turn = (state.t % (5 * (1 + state.t // 1000)) == 0) & (reach > 0)
        elsewhere = join(pixels, place.at[:2].set(_moved(shift, problem, place[:2], reach)))
        return jnp.where(turn, elsewhere, join(painted, place))

    def _square(self, key: jax.Array, pixels: jax.Array, t: jax.Array) -> jax.Array:
        """True in the square of the patch that changes, [h, w, 1]."""
        halvings = jnp.sum(10000 * t / self.queries > jnp.array(UNTIL))
        sides = [jnp.maximum(jnp.floor(jnp.sqrt(self.share * 0.5**halvings) * side), 1) for side in pixels.shape[:2]]
        inside = []
        for side, whole, at in zip(sides, pixels.shape, jax.random.uniform(key, (2,)), strict=False):
            start, line = jnp.floor(at * (whole - side + 1)), jnp.arange(whole)
            inside.append((line >= start) & (line < start + side))
        return (inside[0][:, None] & inside[1])[..., None]


def _moved(key: jax.Array, problem: Problem, place: jax.Array, reach: jax.Array) -> jax.Array:
    """The place [2] after a shift by up to `reach` whole pixels along each axis, kept within the image."""
    budget, shape = problem.budget, problem.x.shape
    places = jnp.array([shape[0] - budget.height + 1, shape[1] - budget.width + 1], jnp.float32)
    shift = jnp.floor(jax.random.uniform(key, (2,)) * (2 * reach + 1)) - reach
    at = jnp.clip(jnp.minimum(jnp.floor(place * places), places - 1) + shift, 0, places - 1)
    return (at + 0.5) / places
