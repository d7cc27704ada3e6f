"""Lines and intervals of scalar functions: never crossed by sampled values, near the best that any lines can be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.ops.bounds import interval, linear
from robustbench_jax.ops.bounds.graph import read
from robustbench_jax.ops.bounds.regions import boxed
from tests.ops.bounds.nets import QUICK

FUNCTIONS = {
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "relu6": jax.nn.relu6,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "celu": jax.nn.celu,
    "silu": jax.nn.silu,
    "gelu": lambda z: jax.nn.gelu(z, approximate=False),
    "gelu by tanh": jax.nn.gelu,
    "softplus": jax.nn.softplus,
    "sigmoid": jax.nn.sigmoid,
    "log_sigmoid": jax.nn.log_sigmoid,
    "tanh": jnp.tanh,
    "hard_tanh": jax.nn.hard_tanh,
    "hard_sigmoid": jax.nn.hard_sigmoid,
    "hard_swish": jax.nn.hard_swish,
    "soft_sign": jax.nn.soft_sign,
    "mish": jax.nn.mish,
    "squareplus": jax.nn.squareplus,
    "abs": jnp.abs,
    "square": jnp.square,
    "cube": lambda z: z**3,
    "exp": lambda z: jnp.exp(z / 4),
    "power": lambda z: jnp.power(1.5, z / 4),
    "sine": jnp.sin,
    "clip": lambda z: jnp.clip(z, -0.3, 2.0),
    "step": lambda z: jnp.where(z > 0, 1.0, 0.0),
    "step with ends": lambda z: jnp.where(z >= 1, 1 - z, 0.5),
    "step of a flat part": lambda z: jnp.where(jax.nn.relu(z - 0.3) > 0, z, -1.0),
    "gap at a flat part": lambda z: jnp.where(jnp.maximum(z - 0.3, 0) == 0, z, -1.0),
    "comparison as a number": lambda z: (z > -0.2).astype(jnp.float32) * z,
    "sign": jnp.sign,
}
ROUNDING = 2e-5  # of the sizes of the values and of slope times point, in float32


def intervals(count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Wide, narrow, of one point, far out, and with an end where functions bend or jump."""
    rng = np.random.default_rng(0)
    kinks = np.array([-3, -1, -0.3, -0.2, 0, 0.3, 1, 2, 3, 6])
    middle = np.concatenate([rng.normal(size=(4, count // 5)) * 3, rng.choice([-50, 50], (1, count // 5))])
    radius = 10 ** rng.uniform(-3, 1, middle.shape)
    low, high = middle - radius, middle + radius
    high[1] = low[1] = rng.choice(kinks, count // 5)
    low[2], high[3] = rng.choice(kinks, (2, count // 5))
    high[2], low[3] = low[2] + radius[2], high[3] - radius[3]
    return low.astype(np.float32).ravel(), high.astype(np.float32).ravel()


def lines(function, low, high):
    """(intervals, (slope, offset) below, (slope, offset) above) of the function on each interval."""
    low, high = jnp.asarray(low), jnp.asarray(high)

    def both(low, high):
        region = boxed(low, high)
        graph = read(function, low)
        found = interval.propagate(graph, region.box)
        known = linear.lines_of(graph, {k: found[k] for k in linear.needed(graph)}, region.box, {})
        below = linear.carried(graph, graph.output, jnp.ones((1, 1)), known)
        above = linear.carried(graph, graph.output, -jnp.ones((1, 1)), known)
        return found[-1], (below[0][0][0, 0], below[1][0]), (-above[0][0][0, 0], -above[1][0])

    found = jax.jit(jax.vmap(both), compiler_options=QUICK)(low[:, None], high[:, None])
    (least, most), below, above = jax.tree.map(np.asarray, found)
    return (least[:, 0], most[:, 0]), below, above


def points_of(low, high, count: int = 500) -> np.ndarray:
    share = np.concatenate([np.linspace(0, 1, count - 2), [1e-6, 1 - 1e-6]])[:, None]
    return np.clip((low + share * (high - low)).astype(np.float32), low, high)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_value_leaves_the_interval_or_crosses_the_lines(name):
    low, high = intervals()
    z = points_of(low, high)
    values = np.asarray(FUNCTIONS[name](jnp.asarray(z)), np.float64)
    (least, most), below, above = lines(FUNCTIONS[name], low, high)
    size = 1 + np.abs(values).max(0)
    assert np.all(values >= least - ROUNDING * size) and np.all(values <= most + ROUNDING * size)
    for sign, (slope, offset) in ((1, below), (-1, above)):
        line = slope.astype(np.float64) * z + offset
        slack = ROUNDING * (size + np.abs(slope * z).max(0) + np.abs(offset))
        assert np.all(sign * (values - line) >= -slack)


@pytest.mark.parametrize("name, times", [("sigmoid", 1.25), ("tanh", 1.45), ("gelu", 1.45), ("silu", 1.35)])
def test_lines_are_hardly_further_apart_than_the_best_ones(name, times):
    """At the middle, no two lines are nearer than the convex hull of the function. Measured: 1.22, 1.38, 1.41 and 1.11
    times that; every fourth point of the grid gives a slope.
    """
    rng = np.random.default_rng(1)
    low = rng.uniform(-6, 4, 60).astype(np.float32)
    high = low + rng.uniform(0.2, 6, 60).astype(np.float32)
    _, below, above = lines(FUNCTIONS[name], low, high)
    middle = (low + high) / 2
    gap = (above[0] - below[0]) * middle + above[1] - below[1]
    best = np.array([hull(FUNCTIONS[name], *ends) for ends in zip(low, high, strict=True)])
    assert np.all(gap >= best - 1e-4)
    assert np.all(gap <= times * best + 0.02)


def hull(function, low, high, half: int = 100) -> float:
    """The height, at the middle of an interval, of the convex hull of a function's graph."""
    z = np.linspace(low, high, 2 * half + 1)
    values = np.asarray(function(jnp.asarray(z)), np.float64)
    left, right, middle = z[: half + 1, None], z[None, half + 1 :], z[half]
    share = (middle - left) / (right - left)
    chords = (1 - share) * values[: half + 1, None] + share * values[None, half + 1 :]
    return float(max(chords.max(), values[half]) - min(chords.min(), values[half]))


@pytest.mark.parametrize("name", ["step", "sign", "sigmoid", "elu"])
def test_an_interval_of_one_point_has_the_functions_value(name):
    z = np.array([-2.0, -0.5, 0.0, 0.5, 3.0], np.float32)
    (least, most), _, _ = lines(FUNCTIONS[name], z, z)
    np.testing.assert_array_equal(least, most)
    np.testing.assert_allclose(least, FUNCTIONS[name](z), rtol=1e-6)
