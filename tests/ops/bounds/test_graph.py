"""What the reader makes of a jaxpr: the graph computes what the function does, by kinds that are stated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.ops.bounds import interval, terms
from robustbench_jax.ops.bounds.graph import read
from robustbench_jax.ops.bounds.regions import Bounds

X = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (4, 6)), jnp.float32)
FUNCTIONS = {
    "split": lambda x: jnp.split(x, 3, axis=1)[1] * 2 - jnp.split(x, 3, axis=1)[2],
    "unstack": lambda x: jnp.unstack(x)[2] + jnp.unstack(x)[0],
    "stack": lambda x: jnp.stack([x, 1 - x], axis=1),
    "tile": lambda x: jnp.tile(x, (2, 1)) - 0.5,
    "concatenate": lambda x: jnp.concatenate([x, jnp.ones((4, 2)), -x], axis=1),
    "pad": lambda x: jnp.pad(x, 1, constant_values=0.25),
    "pooling": lambda x: jnp.max(x.reshape(2, 2, 3, 2), axis=(1, 3)),
    "windows": lambda x: jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (3, 2), (1, 2), "SAME"),
    "minimum": lambda x: jnp.minimum(x, x[::-1]),
    "clip": lambda x: jnp.clip(x, -0.3, 0.4),
    "leaky": lambda x: jax.nn.leaky_relu(x + 0.1, 0.2),
    "gelu": lambda x: jax.nn.gelu(x),
    "softmax": lambda x: jax.nn.softmax(x, axis=1),
    "attention": lambda x: jax.nn.softmax(x @ x.T, axis=-1) @ x,
    "scatter": lambda x: x.at[1, 2].set(0.25) + x.at[jnp.array([0, 3])].set(x[1:3]),
    "scatter of the image": lambda x: jnp.ones((6, 6)).at[1:5].set(x),
    "scatter and add": lambda x: x.at[jnp.array([0, 0, 2])].add(-2 * x[1:]),
    "quotient": lambda x: x / (2 + x[:, :1]),
}


def computed(graph, x):
    """The graph's output at x, node by node."""
    rules = {
        "relu": lambda node, z: jnp.maximum(z, 0),
        "maximum": lambda node, a, b, difference: jnp.maximum(a, b),
        "elementwise": lambda node, z: terms.value(node.term, z),
        "product": lambda node, a, b: a * b,
        "affine": lambda node, *z: node.apply(*z),
    }
    values = [x]
    for node in graph.nodes[1:]:
        values.append(rules[node.kind](node, *(values[i] for i in node.inputs)))
        assert values[-1].shape == node.shape
    return values[-1]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_graph_computes_what_the_function_does(name):
    graph = read(FUNCTIONS[name], X)
    np.testing.assert_allclose(computed(graph, X), FUNCTIONS[name](X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_intervals_of_a_point_are_its_value_and_those_of_a_box_contain_its_points(name):
    graph = read(FUNCTIONS[name], X)
    low, high = interval.propagate(graph, Bounds(X, X))[-1]
    np.testing.assert_allclose(low, FUNCTIONS[name](X), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(high, FUNCTIONS[name](X), rtol=1e-4, atol=1e-5)
    low, high = interval.propagate(graph, Bounds(X - 0.1, X + 0.1))[-1]
    for z in X + np.random.default_rng(1).uniform(-0.1, 0.1, (50, *X.shape)).astype(np.float32):
        value = FUNCTIONS[name](z)
        assert jnp.all(low <= value + 1e-5) and jnp.all(value <= high + 1e-5)


def test_an_affine_node_that_one_other_reads_becomes_part_of_it():
    graph = read(lambda x: jax.nn.relu(((x - 0.5) / 2).reshape(-1) @ jnp.ones((24, 3)) + 1), X)
    assert [node.kind for node in graph.nodes] == ["input", "affine", "relu"]


def test_leaky_relu_is_a_relu_and_a_line():
    assert [node.kind for node in read(jax.nn.leaky_relu, X).nodes] == ["input", "relu", "affine"]
