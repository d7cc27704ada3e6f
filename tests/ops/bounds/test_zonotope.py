"""Zonotopes: errors that are kept cancel; on ReLU networks they are CROWN with parallel lines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.ops.bounds import interval, linear, zonotope
from robustbench_jax.ops.bounds.graph import read
from robustbench_jax.ops.bounds.regions import Region, boxed


def outputs(function, region, errors):
    graph = read(function, region.x)
    forms, _ = zonotope.propagate(graph, region, errors)
    return zonotope.enclosed(forms[-1], region)


@pytest.mark.parametrize("errors, reach", [(1, 0.0), (0, 0.5)])
def test_an_error_that_is_kept_cancels_and_one_in_the_box_does_not(errors, reach):
    """ReLU on [-1, 1] is x / 2 + 1 / 4 with an error of 1 / 4: the paper's section 3.1."""

    def nothing(x):
        z = jax.nn.relu(x)
        return z - z * jnp.ones(1)

    low, high = outputs(nothing, boxed(-jnp.ones(1), jnp.ones(1)), errors)
    np.testing.assert_allclose([low[0], high[0]], [-reach, reach], atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_with_all_errors_kept_a_relu_network_has_the_bounds_of_crown_with_parallel_lines(norm):
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=s).astype(np.float32) for s in ((5, 7), (7, 6), (6, 3))]

    def network(x):
        return jax.nn.relu(jax.nn.relu(x @ weights[0]) @ weights[1]) @ weights[2]

    x = jnp.full(5, 0.5)
    region = Region(x - 0.2, x + 0.2, x, jnp.asarray(0.2), norm)
    graph, rows = read(network, x), jnp.eye(3)
    forms, bounds = zonotope.propagate(graph, region, 7)
    relus = {k: bounds[n.inputs[0]] for k, n in enumerate(graph.nodes) if n.kind == "relu"}
    slopes = {k: linear.relu_lines(z, None)[1] for k, z in relus.items()}
    lines = linear.lines_of(graph, dict(enumerate(bounds)), region.box, slopes)
    expected = linear.least(graph, graph.output, rows, lines, region)
    np.testing.assert_allclose(zonotope.least(graph, rows, forms, region), expected, rtol=1e-4, atol=1e-5)
    assert any(np.any((z.low < 0) & (z.high > 0)) for z in relus.values())


@pytest.mark.slow
def test_softmax_has_finite_bounds_on_boxes_that_its_exponentials_overflow_on():
    def gate(x):
        return jax.nn.softmax(x) @ jnp.arange(3.0)

    region = boxed(jnp.array([-200.0, -150.0, 0.0]), jnp.array([200.0, 100.0, 300.0]))
    graph = read(lambda x: gate(x)[None], region.x)
    found = interval.propagate(graph, region.box)[-1]
    forms, bounds = zonotope.propagate(graph, region, 3)
    known = {k: bounds[k] for k in linear.needed(graph)}
    rows = jnp.array([[1.0], [-1.0]])
    below = linear.least(graph, graph.output, rows, linear.lines_of(graph, known, region.box, {}), region)
    every = [found.low[0], found.high[0], *below, *zonotope.least(graph, rows, forms, region)]
    assert np.all(np.isfinite(every))
    shares = np.random.default_rng(0).uniform(size=(200, 3)).round(np.random.default_rng(1).integers(0, 3))
    seen = jax.vmap(gate)(region.low + shares * (region.high - region.low))
    assert found.low[0] <= seen.min() + 1e-5 and seen.max() <= found.high[0] + 1e-5
    assert below[0] <= seen.min() + 1e-5 and seen.max() <= -below[1] + 1e-5
