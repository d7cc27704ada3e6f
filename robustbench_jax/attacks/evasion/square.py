"""square: random squares of colour, kept where they lower the margin; one query each.

Reference: Andriushchenko et al., ECCV 2020, arXiv:1912.00049; in L1 as in Croce & Hein, ICML 2021, arXiv:2103.01208.
Shapes: D = [H, W, C] input shape. Written for one example; ops/drive.py adds the batch.
Departs from the reference implementation: every image has squares and colours of its own (there the batch shares them),
so that its result does not depend on the batch; the first query, of the start, counts; images need not be square; in
Linf a square that changes nothing (a sixth of them on grey images) uses up a query and evaluates nothing.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.ops.losses import margin
from robustbench_jax.ops.sums import inner, total
from robustbench_jax.registry import register
from robustbench_jax.types import EvasionAttack, Problem, UserError, record, require_positive
from robustbench_jax.types import State as BaseState

HALVINGS = np.array([10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000])  # of the squares' area, by query of 10,000
LOOKED_AT = 4  # proposals, until one changes something
TINY = 1e-12


@record
class State(BaseState):
    loss: jax.Array  # the objective at x_adv


@register(
    "attack", "square", threat="evasion", access="scores", paper="andriushchenko2020", budgets=("linf", "l2", "l1")
)
@record
class Square(EvasionAttack):
    """queries: proposals of one run, each at most one forward evaluation. area: share of the image that the first
    squares cover.

    rescale: fit the schedule of the squares' area, made for 10,000 queries, to `queries` (AutoAttack does not).
    """

    queries: int = 5000
    restarts: int = 1
    area: float = 0.8
    rescale: bool = False

    def __post_init__(self):
        require_positive("square", queries=self.queries, restarts=self.restarts, area=self.area)
        if isinstance(self.area, float) and self.area > 1:
            raise UserError(f"square: area = {self.area} must be at most 1")

    @property
    def steps(self) -> int:
        return self.queries

    @property
    def items(self) -> int:
        return self.restarts

    def init(self, key: jax.Array, problem: Problem) -> State:
        x, ball = problem.x, problem.budget
        if x.ndim != 3:
            raise UserError(f"square needs images [H, W, C]; got {list(x.shape)}")
        colours, turns = jax.random.split(key)
        if math.isinf(ball.p):
            start = ball.project(x, x + ball.eps * _signs(colours, (1, *x.shape[1:])))
        else:
            start = _place(ball, x, _tiles(colours, turns, x.shape, ball.p))
        logits = problem.logits(start)
        state = State.at(start, forwards=1, loss=problem.objective(margin, logits))
        return state.replace(done=problem.adversarial(logits), t=jnp.ones((), jnp.int32))

    def step(self, key: jax.Array, problem: Problem, state: State) -> State:
        x_new, skipped = self._propose(key, problem, state)
        logits = problem.logits(x_new)
        loss, found = problem.objective(margin, logits), problem.adversarial(logits)
        better = (loss > state.loss) | found
        kept = jnp.where(better, x_new, state.x_adv)
        moved = state.move(kept, gradients=0, loss=jnp.where(better, loss, state.loss))
        return moved.replace(done=found, t=moved.t + skipped)

    def _propose(self, key: jax.Array, problem: Problem, state: State) -> tuple[jax.Array, jax.Array]:
        """The next proposal [D] and how many before it changed nothing."""
        if not math.isinf(problem.budget.p):
            return _squares_of_mass(key, problem, state.x_adv, self._area(state.t - 1)), 0
        x_new, skipped = state.x_adv, jnp.full((), -1, jnp.int32)
        for number in range(LOOKED_AT):
            nothing = (total(x_new != state.x_adv) == 0) & (state.t + number < self.queries)
            area = self._area(state.t - 1 + number)
            proposal = _squares_of_corners(jax.random.fold_in(key, number), problem, state.x_adv, area)
            x_new, skipped = jnp.where(nothing, proposal, x_new), skipped + nothing
        return x_new, skipped

    def _area(self, query: jax.Array) -> jax.Array:
        """The share of the image that this query's square covers."""
        query = query * 10000 // self.queries if self.rescale else query
        return self.area / 2.0 ** jnp.searchsorted(jnp.asarray(HALVINGS), query, side="left")


def _squares_of_corners(key: jax.Array, problem: Problem, x_adv: jax.Array, area: jax.Array) -> jax.Array:
    """A square of one corner of the Linf ball, channel by channel."""
    place, colour = jax.random.split(key)
    height, width, channels = problem.x.shape
    side = jnp.clip(jnp.round(jnp.sqrt(area * height * width)), 1, min(height, width))
    rows, columns = _window(place, height, width, side)
    inside = rows[:, None, None] & columns[None, :, None]
    delta = 2 * problem.budget.eps * jnp.where(inside, _signs(colour, (1, 1, channels)), 0.0)
    return problem.budget.project(problem.x, x_adv + delta)


def _squares_of_mass(key: jax.Array, problem: Problem, x_adv: jax.Array, area: jax.Array) -> jax.Array:
    """Moves the mass of one window, and what the ball has left, into a pyramid in another."""
    to, away, colour, turn = jax.random.split(key, 4)
    x, ball = problem.x, problem.budget
    height, width, channels = x.shape
    side = jnp.maximum(jnp.round(jnp.sqrt(area * height * width)), 3)
    side = jnp.minimum(side + (side % 2 == 0), min(height, width))
    delta = x_adv - x
    window, source = (_mask(*_window(k, height, width, side)) for k in (to, away))
    mass = _channel_size(ball.p, jnp.where(window | source, delta, 0.0))
    spare = jnp.maximum(ball.eps**ball.p - ball.size(delta) ** ball.p, 0.0)
    pyramid = _pyramid(to, turn, height, width, side, ball.p) * _signs(colour, (1, 1, channels))
    here = jnp.where(window, delta, 0.0)
    shape = pyramid + here / (TINY + _channel_size(ball.p, here))
    amount = jnp.sqrt(spare / channels + mass**2) if ball.p == 2 else (spare / channels + mass) * channels
    shape = amount * shape / (TINY + _channel_size(ball.p, shape))
    return _place(ball, x, jnp.where(window, shape, jnp.where(source, 0.0, delta)))


def _place(ball, x: jax.Array, delta: jax.Array) -> jax.Array:
    """The perturbation scaled to the whole radius and cut by the box (L2), or projected (L1)."""
    if ball.p == 1:
        return ball.project(x, x + delta)
    return ball.project(x, jnp.clip(x + ball.eps * delta / (ball.size(delta) + TINY), 0.0, 1.0))


def _window(key: jax.Array, height: int, width: int, side: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Rows bool [H] and columns bool [W] of a random square; as in the reference the last offset is left out."""
    top, left = _corner(key, height, width, side)
    rows, columns = jnp.arange(height), jnp.arange(width)
    return (rows >= top) & (rows < top + side), (columns >= left) & (columns < left + side)


def _corner(key: jax.Array, height: int, width: int, side: jax.Array) -> tuple[jax.Array, jax.Array]:
    u = jax.random.uniform(key, (2,))
    return jnp.floor(u[0] * (height - side)), jnp.floor(u[1] * (width - side))


def _mask(rows: jax.Array, columns: jax.Array) -> jax.Array:
    return rows[:, None, None] & columns[None, :, None]


def _pyramid(place, turn, height: int, width: int, side: jax.Array, p: float) -> jax.Array:
    """[H, W, 1] of p-norm 1: two pyramids of opposite sign, one above the other or, half the time, side by side."""
    top, left = _corner(place, height, width, side)
    i, j = jnp.arange(height)[:, None] - top, jnp.arange(width)[None, :] - left
    turned = jax.random.bernoulli(turn)
    i, j = jnp.where(turned, j, i), jnp.where(turned, i, j)
    return _two_halves(i, j, side, p, max(height, width))[..., None]


def _two_halves(i, j, side, p: float, most: int):
    """Pyramids in rows [0, side // 2) and [side // 2, side) of a square, at offsets i and j from its corner."""
    half = side // 2
    upper, lower = _half(i, j, half, side, p, most), _half(i - half, j, side - half, side, p, most)
    both = upper - lower
    return both / (TINY + _size(p, both))


def _half(i, j, rows, columns, p: float, most: int):
    """Nested rectangles around the middle of rows x columns, the k-th of height 1 / k^2 (L1: 1 / k^4), of p-norm 1."""
    powers = np.arange(1, most + 2.0) ** (2 if p == 2 else 4)
    harmonic = jnp.asarray(np.concatenate([[0.0], np.cumsum(1 / powers)]), jnp.float32)
    centre, middle = rows // 2, columns // 2
    distance = jnp.maximum(jnp.abs(i - centre), jnp.abs(j - middle)).astype(jnp.int32)
    count = (jnp.maximum(centre, middle) + 1).astype(jnp.int32)
    inside = (i >= 0) & (i < rows) & (j >= 0) & (j < columns) & (distance < count)
    value = jnp.where(inside, harmonic[count] - harmonic[jnp.minimum(distance, count)], 0.0)
    return value / (TINY + _size(p, value))


def _tiles(colours: jax.Array, turns: jax.Array, shape: tuple[int, ...], p: float) -> jax.Array:
    """[H, W, C]: squares of a fifth of the height, each a pyramid of its own sign in every channel."""
    height, width, channels = shape
    side = max(height // 5, 1)
    first = (height - 5 * side) // 2
    row, column = ((np.arange(n) - first) for n in (height, width))
    count = (height // side, width // side)
    inside = ((row >= 0) & (row < count[0] * side))[:, None] & ((column >= 0) & (column < count[1] * side))[None, :]
    i, j = np.broadcast_arrays((row % side)[:, None], (column % side)[None, :])
    tile = np.clip(row // side, 0, count[0] - 1)[:, None] * count[1] + np.clip(column // side, 0, count[1] - 1)[None, :]
    local = np.arange(side)
    one = _two_halves(jnp.asarray(local[:, None]), jnp.asarray(local[None, :]), jnp.asarray(side), p, side + 1)
    turned = jax.random.bernoulli(turns, shape=(count[0] * count[1],))[tile]
    value = jnp.where(turned, one[j, i], one[i, j]) * inside
    return value[..., None] * _signs(colours, (count[0] * count[1], channels))[tile]


def _signs(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.rademacher(key, shape, float)


def _size(p: float, value: jax.Array) -> jax.Array:
    return jnp.sqrt(inner(value, value)) if p == 2 else total(jnp.abs(value))


def _channel_size(p: float, value: jax.Array) -> jax.Array:
    """[1, 1, C]"""
    if p == 2:
        return jnp.sqrt(jnp.sum(value * value, axis=(0, 1), keepdims=True))
    return jnp.sum(jnp.abs(value), axis=(0, 1), keepdims=True)
