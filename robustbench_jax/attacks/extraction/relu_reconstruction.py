"""relu_reconstruction(): a network of one hidden ReLU layer is rebuilt from where its answers bend.

References: Jagielski et al., USENIX Security 2020, arXiv:1909.01838 (functionally equivalent extraction); Carlini et
al., CRYPTO 2020, arXiv:2003.04884. Along a line the logits are piecewise linear and bend where one neuron switches; the
jump of the gradient there is the neuron's weights times what they weigh in the logits.
Departs from the papers: gradients on both sides of a bend give weights with their signs; a neuron that is on in the
whole box, and the sign of each neuron, are left to a linear part, which is the same function there. Questions stay
inside [0, 1] and are answered in double precision, which a server of 8-bit images does not do.
Shapes: D pixels, C classes, h neurons, T bends. Answers are log p, centred over the classes.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.attacks.extraction.equation_solving import centred
from robustbench_jax.keys import generator, stream
from robustbench_jax.registry import register
from robustbench_jax.thefts import ExtractionAttack, Oracle, Stolen
from robustbench_jax.types import Classifier, Dataset, UserError, record, require_positive, static

EDGE = 0.02  # how far from the sides of the box lines stay
STEP = 1e-6  # of finite differences
SAME = 1e-6  # what counts as equal, relative to the size of the answers
NARROWEST = 1e-5  # an interval below it is not looked into


@register("attack", "relu_reconstruction", threat="extraction", access="scores", paper="jagielski2020")
@record
class ReluReconstruction(ExtractionAttack):
    """lines: at most so many are searched, half of them between images of the pool; idle: the search ends after so many
    without a new neuron.
    """

    lines: int = static(default=200)
    idle: int = static(default=20)

    def __post_init__(self):
        require_positive("relu_reconstruction", lines=self.lines, idle=self.idle)

    def require(self, oracle: Oracle, shape: tuple[int, ...], classes: int) -> None:
        need = 4 * (int(np.prod(shape)) + 1)
        if oracle.budget < need:
            raise UserError(
                f"queries({oracle.budget}): 'relu_reconstruction' needs {need} for one neuron of images {list(shape)}"
            )

    def steal(self, key: jax.Array, oracle: Oracle, pool: Dataset) -> Stolen:
        shape, random = pool.x.shape[1:], generator(stream(key, "lines"))
        flat = pool.x.reshape(len(pool), -1)
        size = flat.shape[1]

        def ask(x: np.ndarray) -> np.ndarray:
            return centred(oracle.ask_exactly(x.reshape(-1, *shape)))

        left = size + 2  # for the linear part and the check
        neurons: list[tuple[np.ndarray, float, np.ndarray]] = []
        quiet = 0
        for number in range(self.lines):
            a, b = ends(random, flat, natural=number % 2 == 0)
            found = bends(ask, lambda: oracle.left - left, a, b)
            new = 0
            for t in found:
                at = a + t * (b - a)
                if any(abs(w @ at + bias) < SAME * 10 for w, bias, _ in neurons):
                    continue
                if oracle.left - left < 2 * (size + 1):
                    break
                neuron = switched(ask, at, b - a, gap(found, t))
                if neuron is not None:
                    neurons.append(neuron)
                    new += 1
            quiet = 0 if new else quiet + 1
            if quiet == self.idle or oracle.left - left < 2 * (size + 1):
                break
        clone = rebuilt(ask, neurons, still(random, neurons, size))
        return Stolen(clone, {"width_found": float(len(neurons))})


def ends(random: np.random.Generator, flat: np.ndarray, natural: bool) -> tuple[np.ndarray, np.ndarray]:
    """The ends of a line [D], inside the box: two images, or two corners."""
    if natural:
        a, b = (flat[i] / 255.0 for i in random.choice(len(flat), 2, replace=False))
        noise = 0.05 * random.standard_normal((2, len(a)))  # of two images many pixels are equally black
        a, b = np.clip(a + noise[0], 0, 1), np.clip(b + noise[1], 0, 1)
    else:
        a, b = random.integers(0, 2, (2, flat.shape[1])).astype(float)
    return EDGE + (1 - 2 * EDGE) * a, EDGE + (1 - 2 * EDGE) * b


def bends(ask: Callable, left: Callable[[], int], a: np.ndarray, b: np.ndarray) -> list[float]:
    """Where, from 0 to 1, the answers bend between a and b [D]; all that the queries left suffice for.

    An interval whose lines from both ends meet on the answers has one bend, where they meet; others are halved.
    """

    def along(t: np.ndarray) -> np.ndarray:
        return ask(a + t[:, None] * (b - a))

    intervals, found = [(0.0, 1.0)], []
    while intervals and left() >= 5 * len(intervals):
        lows, highs = np.array(intervals).T
        values = along(np.concatenate([lows, lows + STEP, highs - STEP, highs])).reshape(4, len(lows), -1)
        low, high = values[0], values[3]
        slope_low, slope_high = (values[1] - low) / STEP, (high - values[2]) / STEP
        turn = slope_low - slope_high
        size = np.maximum(np.abs(low).max(-1), np.abs(high).max(-1)) + 1.0
        straight = np.abs(low + slope_low * (highs - lows)[:, None] - high).max(-1) < SAME * size
        straight &= np.abs(turn).max(-1) < 1e3 * SAME * size
        apart = (high - slope_high * highs[:, None]) - (low - slope_low * lows[:, None])
        meet = np.sum(apart * turn, -1) / np.maximum(np.sum(turn * turn, -1), 1e-300)
        meet = np.clip(meet, lows, highs)
        there = along(meet)
        one = np.abs(low + slope_low * (meet - lows)[:, None] - there).max(-1) < SAME * size
        one &= np.abs(high - slope_high * (highs - meet)[:, None] - there).max(-1) < SAME * size
        one &= (meet > lows + 2 * STEP) & (meet < highs - 2 * STEP)
        found += meet[~straight & one].tolist()
        halve = ~straight & ~one & (highs - lows > NARROWEST)
        middles = lows + 0.4871 * (highs - lows)  # a bend is hardly ever there
        intervals = [(lows[i], middles[i]) for i in np.flatnonzero(halve)]
        intervals += [(middles[i], highs[i]) for i in np.flatnonzero(halve)]
    return sorted(found)


def gap(found: list[float], t: float) -> float:
    """How far the nearest other bend, or end of the line, is from t."""
    return min([abs(t - other) for other in (*found, 0.0, 1.0) if other != t])


def switched(ask: Callable, at: np.ndarray, way: np.ndarray, room: float):
    """(w [D], bias, weights in the logits [C]) of the neuron that switches at a point [D] of a line along `way`: w has
    length 1 and grows along it. None where the jump of the gradient is not that of one neuron.
    """
    side = min(0.3 * room, 0.01)
    after, before = (slopes(ask, at + sign * side * way) for sign in (1, -1))
    left, values, right = np.linalg.svd(after - before, full_matrices=False)
    if values[0] < 1e-5 or values[1:].max(initial=0) > 1e-3 * values[0]:
        return None
    w, weights = left[:, 0], values[0] * right[0]
    if w @ way < 0:
        w, weights = -w, -weights
    return w, float(-w @ at), weights


def slopes(ask: Callable, at: np.ndarray) -> np.ndarray:
    """[D, C]: the gradient at a point [D] at which nothing bends."""
    values = ask(np.concatenate([at[None], at + STEP * np.eye(len(at))]))
    return (values[1:] - values[0]) / STEP


def still(random: np.random.Generator, neurons: list, size: int) -> np.ndarray:
    """Of some random points [D] the one furthest from where a neuron switches."""
    points = EDGE + (1 - 2 * EDGE) * random.random((64, size))
    away = [np.abs(points @ w + bias) for w, bias, _ in neurons]
    return points[np.argmax(np.min(away, 0))] if neurons else points[0]


def rebuilt(ask: Callable, neurons: list[tuple[np.ndarray, float, np.ndarray]], at: np.ndarray) -> Classifier:
    """The neurons, and the linear part that the answers have beside them at a point [D]."""
    size, classes = len(at), ask(at[None]).shape[1]
    kernel = np.stack([w for w, _, _ in neurons], 1) if neurons else np.zeros((size, 0))
    bias = np.array([bias for _, bias, _ in neurons])
    out = np.stack([weights for _, _, weights in neurons]) if neurons else np.zeros((0, classes))
    active = at @ kernel + bias > 0
    skip = slopes(ask, at) - (kernel * active) @ out
    rest = ask(at[None])[0] - np.maximum(at @ kernel + bias, 0) @ out - at @ skip
    params = {"kernel": kernel, "bias": bias, "out": out, "skip": skip, "rest": rest}
    return Classifier(bent, {name: jnp.asarray(value, jnp.float32) for name, value in params.items()})


def bent(params: dict, x: jax.Array) -> jax.Array:
    """Logits [C] of an image: kernel [D, h], bias [h], out [h, C], and the linear part skip [D, C], rest [C]."""
    x = x.reshape(-1)
    return jax.nn.relu(x @ params["kernel"] + params["bias"]) @ params["out"] + x @ params["skip"] + params["rest"]
