"""Small networks of every operation that has bounds, with weights at random; sampled and attacked points of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from robustbench_jax.ops import layers
from robustbench_jax.ops.bounds import interval, linear, zonotope
from robustbench_jax.ops.bounds.graph import read
from robustbench_jax.ops.bounds.regions import Bounds, Region


@dataclass(frozen=True)
class Net:
    """shapes: of the weights, drawn normal and divided by the root of the fan-in. x [D] -> [C]."""

    apply: Callable
    shape: tuple[int, ...]
    weights: dict[str, tuple[int, ...]]

    def draw(self, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
        return {
            k: (rng.normal(size=(count, *s)) * 1.5 / np.sqrt(max(np.prod(s[:-1]), 1))).astype(np.float32)
            for k, s in self.weights.items()
        }


def dense(activation: Callable) -> Net:
    def apply(w, x):
        return activation(activation(x @ w["a"] + w["b"]) @ w["c"]) @ w["d"]

    return Net(apply, (5,), {"a": (5, 6), "b": (6,), "c": (6, 6), "d": (6, 3)})


def convolutions(w, x):
    """Strides, padding, groups, both sorts of convolution, batch normalisation as its formula."""
    z = layers.conv(x[None], w["a"], stride=2, padding=((1, 1), (0, 1)))
    z = jax.nn.relu((z - w["mean"]) / jnp.sqrt(w["var"] ** 2 + 0.5) * w["scale"] + w["shift"])
    z = lax.conv_general_dilated(
        z, w["g"], (1, 1), [(1, 1), (1, 0)], feature_group_count=2, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jax.nn.relu(z).reshape(-1) @ w["d"]


def pools(w, x):
    """Maxima and averages: in windows that overlap and are padded, and by reshape."""
    z = layers.conv(x[None], w["a"], padding="SAME")
    one = lax.reduce_window(z, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 0), (0, 0)))
    two = layers.max_pool(z, 2)
    three = lax.reduce_window(z, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "VALID") / 9
    four = z.reshape(1, 3, 2, 3, 2, 2).max((2, 4)) - z.reshape(1, 3, 2, 3, 2, 2).min((2, 4))
    every = [one, two, jax.nn.relu(three), four, layers.avg_pool(z, 2)]
    return jnp.concatenate([e.reshape(-1) for e in every]) @ w["d"]


def residual(w, x):
    """Additions, concatenations, and entries that move about."""
    z = x.reshape(-1) @ w["a"]
    z = z + jax.nn.relu(z @ w["b"])
    z = z - jax.nn.leaky_relu(z @ w["c"], 0.2)
    z = jnp.concatenate([z[::-1][1:4], jnp.pad(z, (1, 2))[jnp.array([0, 3, 1, 6])], z.reshape(2, 3).T.ravel()[::2]])
    z = lax.dynamic_slice(jnp.roll(jax.nn.relu(z), 2), (1,), (8,))
    return jnp.where(jnp.arange(8) % 3 == 0, z, -0.5 * z) @ w["d"]


def piecewise(w, x):
    z = x @ w["a"] + w["b"]
    a, b = jnp.clip(z, -0.4, 0.6), jnp.abs(z - 0.1)
    c, d = jnp.maximum(z, z[::-1]), jnp.minimum(z * 2, z[::-1])
    e, f = jax.nn.hard_tanh(3 * z), jax.nn.relu6(8 * z)
    g, h = jnp.maximum(z, w["b"]), jnp.minimum(z, 0.2)
    i = jnp.where(z > 0, z, w["b"] * z)
    j = jnp.where(z > 0.1, 1.0, 0.0) + (z > -0.2).astype(jnp.float32) * z
    return jnp.concatenate([a, b, c, d, e, f, g, h, i, j]) @ w["d"]


def attention(w, x):
    """A layer norm, products of matrices that both move, softmax, gates."""
    mean = x.mean(-1, keepdims=True)
    var = ((x - mean) ** 2).mean(-1, keepdims=True)
    z = (x - mean) / jnp.sqrt(var + 0.3)
    q, k, v = (z @ w[name] for name in "qkv")
    z = jax.nn.softmax(q @ k.T / 2, axis=-1) @ v
    z = z * jax.nn.sigmoid(x @ w["q"])
    return jax.nn.softmax(z.reshape(-1) @ w["d"])


def quotients(w, x):
    a, b = x @ w["a"], x @ w["b"]
    ratio = a / (jax.nn.softplus(b) + 0.5)
    dots = jnp.einsum("i,j->ij", a, b).sum(0) / 4
    other = 1 / (1 + b**2) + lax.rsqrt(a * a + 0.5) + jnp.exp(jnp.tanh(a)) * b
    return jnp.concatenate([ratio, dots, other, jnp.log(1.5 + jnp.sin(a)), jnp.cumsum(jax.nn.relu(b))]) @ w["d"]


IMAGE, CHANNELS = (6, 6, 2), {"a": (3, 3, 2, 4)}
NORMALISED = {"mean": (4,), "var": (4,), "scale": (4,), "shift": (4,)}
NETS = {
    "dense relu": dense(jax.nn.relu),
    "dense sigmoid": dense(jax.nn.sigmoid),
    "dense tanh": dense(jnp.tanh),
    "dense gelu": dense(lambda z: jax.nn.gelu(z, approximate=False)),
    "dense gelu by tanh": dense(jax.nn.gelu),
    "dense silu": dense(jax.nn.silu),
    "dense elu": dense(jax.nn.elu),
    "dense softplus": dense(jax.nn.softplus),
    "convolutions": Net(convolutions, IMAGE, CHANNELS | NORMALISED | {"g": (3, 3, 2, 4), "d": (24, 3)}),
    "pools": Net(pools, IMAGE, {"a": (3, 3, 2, 2), "d": (104, 3)}),
    "residual": Net(residual, (2, 4), {"a": (8, 6), "b": (6, 6), "c": (6, 6), "d": (8, 3)}),
    "piecewise": Net(piecewise, (4,), {"a": (4, 4), "b": (4,), "d": (40, 3)}),
    "attention": Net(attention, (3, 4), {"q": (4, 4), "k": (4, 4), "v": (4, 4), "d": (12, 3)}),
    "quotients": Net(quotients, (4,), {"a": (4, 4), "b": (4, 4), "d": (20, 3)}),
}


QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


class Found(NamedTuple):
    """Bounds of the outputs [C]: by intervals; linear ones with interval bounds inside; linear ones throughout; by
    zonotopes with a box and errors of their own, met with intervals on the way; and without errors of their own.
    """

    intervals: Bounds
    last: Bounds
    linear: Bounds
    forward: Bounds
    boxed: Bounds


def bounds(function: Callable, region: Region) -> Found:
    graph = read(function, region.x)
    found = interval.propagate(graph, region.box)
    plain, needed = dict(enumerate(found)), linear.needed(graph)
    last = both_sides(graph, graph.output, linear.lines_of(graph, plain, region.box, {}), region)
    known, lines = {0: region.box}, {}
    for number, node in enumerate(graph.nodes):
        if node.kind in linear.LINES:
            lines[number] = linear.LINES[node.kind](node, [known.get(i) for i in node.inputs], None)
        if number in needed and not node.positive:
            known[number] = interval.intersected(both_sides(graph, number, lines, region), plain[number])
        elif number in needed:
            known[number] = plain[number]
    forward = [zonotope_sides(graph, region, errors) for errors in (3, 0)]
    return Found(found[-1], last, both_sides(graph, graph.output, lines, region), *forward)


def zonotope_sides(graph, region: Region, errors: int) -> Bounds:
    """Bounds of the output by zonotopes, the last layer folded in."""
    forms, _ = zonotope.propagate(graph, region, errors)
    rows = jnp.eye(graph.nodes[graph.output].shape[0], dtype=region.x.dtype)
    low, high = (zonotope.least(graph, sign * rows, forms, region) for sign in (1, -1))
    return Bounds(low, -high)


def both_sides(graph, number: int, lines: dict, region: Region) -> Bounds:
    """Linear bounds of every entry of a node."""
    shape = graph.nodes[number].shape
    rows = jnp.eye(int(np.prod(shape)), dtype=region.x.dtype).reshape(-1, *shape)
    low, high = (linear.least(graph, number, sign * rows, lines, region) for sign in (1, -1))
    return Bounds(low.reshape(shape), -high.reshape(shape))


def extremes(key: jax.Array, function: Callable, region: Region, points: int, steps: int = 12) -> Bounds:
    """The least and greatest outputs [C] seen at corners, at points of the box drawn into the ball, and by ascent."""
    corners, uniform, starts = jax.random.split(key, 3)
    shape = (points // 2, *region.x.shape)
    shares = jnp.concatenate([jax.random.bernoulli(corners, 0.5, shape), jax.random.uniform(uniform, shape)])
    seen = jax.vmap(function)(jax.vmap(region.inside)(region.low + shares * (region.high - region.low)))
    classes = seen.shape[1]

    def climb(x, row):
        def step(_, x):
            slope = jax.grad(lambda x: row @ function(x))(x)
            best = region.lowest(-slope)
            return jnp.where(jnp.isfinite(best), region.inside(x + 0.4 * (best - x)), x)

        return function(lax.fori_loop(0, steps, step, x))

    rows = jnp.concatenate([jnp.eye(classes), -jnp.eye(classes)])
    begin = region.low + jax.random.uniform(starts, (3, *region.x.shape)) * (region.high - region.low)
    climbed = jax.vmap(lambda x: jax.vmap(lambda row: climb(region.inside(x), row))(rows))(begin)
    seen = jnp.concatenate([seen, climbed.reshape(-1, classes)])
    return Bounds(seen.min(0), seen.max(0))


def regions(rng: np.random.Generator, count: int, shape: tuple[int, ...], norm: str) -> Region:
    """Boxes and balls of many sizes, some of them cut by the edges of [0, 1]."""
    x = rng.uniform(-0.1, 1.1, (count, *shape)).clip(0, 1).astype(np.float32)
    root = {"linf": 1.0, "l2": np.sqrt(np.prod(shape)), "l1": np.prod(shape)}[norm]
    eps = (root * 10 ** rng.uniform(-3, -0.3, count)).astype(np.float32)
    wide = eps.reshape(-1, *[1] * len(shape))
    return Region(np.maximum(x - wide, 0), np.minimum(x + wide, 1), x, eps, norm)


def examined(net: Net, norm: str, count: int, points: int, seed: int = 0) -> tuple[Any, Any]:
    """(Found, extremes) of `count` draws of weights and regions."""
    rng = np.random.default_rng(seed)
    weights, where = net.draw(rng, count), regions(rng, count, net.shape, norm)

    def one(key, w, region):
        def function(x):
            return net.apply(w, x)

        return bounds(function, region), extremes(key, function, region, points)

    keys = jax.random.split(jax.random.key(seed), count)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one), compiler_options=QUICK)(keys, weights, where))
