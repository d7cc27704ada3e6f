"""Rows that go back as one: they have the bounds that they have alone, and no more colours than need be."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.certify import bounding
from robustbench_jax.certify.bounded import regions_of
from robustbench_jax.ops import layers
from robustbench_jax.ops.bounds import apart
from robustbench_jax.ops.bounds.graph import read
from robustbench_jax.registry import build
from robustbench_jax.types import Classifier
from tests.ops.bounds import nets


def normal(shape, seed):
    return (np.random.default_rng(seed).normal(size=shape) / np.sqrt(np.prod(shape[:-1]))).astype(np.float32)


def convolutions(params, x):
    z = jax.nn.relu(layers.conv(x, params["a"], stride=2) + params["b"])
    z = jax.nn.relu(z + layers.conv(z, params["c"]))
    return layers.conv(z, params["d"])[::4, ::4].reshape(-1)


PARAMS = {
    k: normal(s, i)
    for i, (k, s) in enumerate({"a": (2, 2, 1, 4), "b": (4,), "c": (3, 3, 4, 4), "d": (1, 1, 4, 2)}.items())
}
MODEL = Classifier(convolutions, PARAMS)
IMAGES = np.random.default_rng(5).uniform(size=(3, 16, 16, 1)).astype(np.float32)


def found(function, shape, start=None):
    """The sites of a node of a function, the output if none is named."""
    graph = read(function, jnp.zeros(shape))
    start = graph.output if start is None else start
    size = int(np.prod(graph.nodes[start].shape))
    reach = jax.jit(lambda entries: apart.reach(graph, start, entries))
    return apart.sites(lambda e: jax.tree.map(np.asarray, reach(e)), np.arange(size, dtype=np.int32), start, size)


@pytest.mark.parametrize(
    "budget, steps",
    [("l2(0.6)", 0), *(pytest.param(*case, marks=pytest.mark.slow) for case in [("l1(1.0)", 0), ("linf(0.1)", 2)])],
)
def test_bounds_of_rows_that_go_back_as_one_are_those_of_rows_that_go_back_alone(budget, steps, monkeypatch):
    regions = regions_of(IMAGES, build("budget", budget))
    known = bounding.intervals(MODEL, regions, {})
    carried, plain = [], bounding._rows

    def counted(model, regions, known, rows, *more, **options):
        carried.append(rows.shape[1])
        return plain(model, regions, known, rows, *more, **options)

    monkeypatch.setattr(bounding, "_rows", counted)
    bounds, passes = [], []
    for many in (1, 10**9):
        monkeypatch.setattr(bounding, "MANY", many)
        carried.clear()
        bounds.append(bounding.crown(MODEL, regions, known, steps=steps))
        passes.append(sum(carried))
    for together, alone in zip(*map(jax.tree.leaves, bounds), strict=True):
        np.testing.assert_allclose(together, alone, atol=2e-6)
    assert passes[0] < 0.5 * passes[1]


def test_windows_that_do_not_overlap_are_sites_of_one_colour_and_overlapping_ones_of_nine():
    kernel = normal((3, 3, 1, 5), 0)
    whole = found(lambda x: layers.conv(x, kernel, stride=3, padding="VALID"), (12, 12, 1))
    assert len(whole.colours) == 1 and len(whole.colours[0]) == 16
    assert len(np.unique(whole.site)) == 16 and np.all(whole.site.reshape(16, 5) == whole.site.reshape(16, 5)[:, :1])
    every = found(lambda x: layers.conv(x, kernel, stride=1, padding="VALID"), (12, 12, 1))
    assert len(every.colours) == 9 and sum(map(len, every.colours)) == 100


def test_sites_of_one_colour_have_nothing_in_common_at_any_node_below():
    sites = found(MODEL, (16, 16, 1), start=4)
    assert len(sites.colours) < len(np.unique(sites.site)) / 2
    for colour in sites.colours:
        for number, held in sites.reach.items():
            assert np.unpackbits(held[colour], axis=1).sum(0).max() <= 1, number


def test_a_pass_carries_each_entry_that_matters_once():
    sites = found(MODEL, (16, 16, 1), start=4)
    matter = np.random.default_rng(0).random((3, len(sites.site))) < 0.3
    for image in range(3):
        entries = np.concatenate([sites.passes(colour, matter)[image].ravel() for colour in sites.colours])
        np.testing.assert_array_equal(np.sort(entries[entries >= 0]), np.flatnonzero(matter[image]))


def test_the_entries_of_a_dense_layer_are_not_apart():
    assert found(lambda x: x.reshape(-1) @ normal((48, 100), 0), (4, 4, 3)) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convolutions", "pools", "residual", "piecewise"])
def test_reach_holds_all_that_a_derivative_sees(name):
    net, rng = nets.NETS[name], np.random.default_rng(0)
    weights = {k: v[0] for k, v in net.draw(rng, 1).items()}
    graph = read(lambda x: net.apply(weights, x), jnp.zeros(net.shape))
    size = int(np.prod(graph.nodes[graph.output].shape))
    seen = np.asarray(jax.jit(lambda entries: apart.reach(graph, graph.output, entries)[0])(jnp.arange(size)))
    jacobian = jax.jit(jax.jacobian(lambda x: net.apply(weights, x).reshape(-1)))
    for x in rng.normal(size=(20, *net.shape)).astype(np.float32):
        assert np.all(seen | (jacobian(x).reshape(size, -1) == 0))


def test_entries_reach_the_same_in_float64():
    """The second look at close margins has float64 weights."""
    single = found(partial(convolutions, PARAMS), IMAGES.shape[1:], start=None)
    with jax.enable_x64(True):
        wide = {name: np.float64(value) for name, value in PARAMS.items()}
        double = found(partial(convolutions, wide), IMAGES.shape[1:], start=None)
    np.testing.assert_array_equal(single.site, double.site)
    assert len(single.colours) == len(double.colours)
