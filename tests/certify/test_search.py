"""The reduced network of a region against the network itself, and the pool of open domains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.certify import bounding, pool, reduction, search
from robustbench_jax.certify.bounded import margin_rows
from robustbench_jax.ops.bounds import reduced
from robustbench_jax.ops.bounds.reduced import Weights
from robustbench_jax.ops.bounds.regions import boxed
from robustbench_jax.types import Classifier

ROWS = margin_rows(np.array([0]), 3)


def dense(params, x):
    hidden = jax.nn.relu(jax.nn.relu(x @ params["a"] + params["b"]) @ params["c"] + params["d"])
    return hidden @ params["e"]


def every_kind(params, x):
    hidden = jax.nn.relu(x @ params["a"] + params["b"])
    hidden = hidden + jax.nn.relu(hidden @ params["c"] + params["d"])
    largest = jnp.maximum(hidden, hidden[::-1])
    return (jnp.tanh(largest) * hidden) @ params["e"]


def of(net):
    keys = jax.random.split(jax.random.key(3), 5)
    shapes = {"a": (2, 12), "b": (12,), "c": (12, 12), "d": (12,), "e": (12, 3)}
    model = Classifier(net, {name: jax.random.normal(k, s) for k, (name, s) in zip(keys, shapes.items(), strict=True)})
    region = boxed(jnp.array([0.3, 0.3]), jnp.array([0.8, 0.8]))
    many = jax.tree.map(lambda leaf: leaf[None], region)
    known = bounding.plain(model, many, ROWS)[1]
    plain = bounding.linear_margins(model, many, ROWS, known)
    return model, region, jax.tree.map(lambda leaf: leaf[0], known), np.asarray(plain)[0]


@pytest.mark.parametrize("net", [dense, pytest.param(every_kind, marks=pytest.mark.slow)])
def test_without_splits_the_reduced_network_gives_the_bounds_of_crown(net):
    model, region, known, plain = of(net)
    made = reduction.Reduction(model, region, known)
    small = made.reduced()
    rows = made.rows(made.form.output, ROWS[0], len(made.groups))
    slopes = jnp.tile(small.high > -small.low, (2, 1)).astype(jnp.float32)
    nothing = jnp.zeros_like(slopes)
    found = reduced.carried(small, jnp.asarray(rows), nothing, slopes, nothing).lower
    np.testing.assert_allclose(found, plain, rtol=1e-4, atol=1e-4)


def test_any_slopes_and_multipliers_even_in_half_precision_bound_all_points_of_a_domain():
    model, region, known, _ = of(dense)
    made = reduction.Reduction(model, region, known)
    small, params = made.reduced(), model.params
    rows = jnp.asarray(made.rows(made.form.output, ROWS[0], len(made.groups)))
    rng = np.random.default_rng(0)
    x = rng.uniform(0.3, 0.8, (20_000, 2)).astype(np.float32)
    values = np.asarray(jax.vmap(model)(x)) @ ROWS[0].T
    first = x @ params["a"] + params["b"]
    second = np.maximum(first, 0) @ params["c"] + params["d"]
    sides = np.zeros((len(x), len(small.low)))
    for at, (group, z) in enumerate(zip(made.groups, (first, second), strict=True)):
        start = sum(g.size for g in made.groups[:at])
        sides[:, start : start + len(group.entries)] = np.asarray(z)[:, group.entries]
    bound = jax.jit(reduced.carried)
    free, checked = np.flatnonzero(np.asarray(small.free)), 0
    for _ in range(100):
        sign = np.zeros((2, len(small.low)), np.int8)
        split = rng.choice(free, rng.integers(0, 4), replace=False)
        sign[:, split] = rng.choice([-1, 1], len(split))
        inside = (sides * sign[0] >= 0).all(1)
        alpha = rng.uniform(0, 1, sign.shape).astype(np.float16).astype(np.float32)
        beta = rng.exponential(1, sign.shape).astype(np.float16).astype(np.float32)
        lower = np.asarray(bound(small, rows, sign, alpha, beta).lower)
        if inside.any():
            checked += len(split) > 0
            assert (lower <= values[inside].min(0) + 1e-4).all()
    assert checked > 20


def test_the_worst_domains_leave_the_pool_and_no_other():
    rng = np.random.default_rng(0)
    lower = rng.permutation(300).astype(np.float32)
    kept = pool.Pool(5, 1)
    weights = Weights(np.zeros((300, 5)), np.zeros((300, 5)), np.ones((300, 1)))
    kept.add(lower, lower.astype(int) % 3, np.zeros((300, 5), np.int8), weights)
    taken = [kept.worst(70) for _ in range(5)]
    assert [len(t.lower) for t in taken] == [70, 70, 70, 70, 20] and len(kept) == 0
    assert sorted(taken[0].lower) == list(range(70))
    every = np.concatenate([t.lower for t in taken])
    assert sorted(every) == list(range(300))
    assert (np.concatenate([t.problem for t in taken]) == every % 3).all()


def test_halves_differ_in_one_neuron_and_cover_both_sides():
    weights = Weights(np.zeros((2, 4)), np.zeros((2, 4)), np.ones((2, 1)))
    two = pool.Domains(np.zeros(2, np.float32), np.arange(2), np.zeros((2, 4), np.int8), weights)
    found = two.halved(np.array([3, 4]), np.array([True, False]))  # the second has none left
    assert found.problem.tolist() == [0, 1, 0]
    assert found.sign.tolist() == [[0, 0, 0, -1], [0, 0, 0, 0], [0, 0, 0, 1]]


def test_a_bound_that_is_no_number_proves_nothing():
    broken = object.__new__(search.Search)
    broken.problems = search.Problems(np.zeros((2, 1, 3)), np.zeros((2, 1)), np.full(2, 0.5))
    broken.floor, broken.attacked = np.array([np.inf, -np.inf]), False
    broken.pool = pool.Pool(1, 1)
    assert broken.proved.tolist() == [True, False] and broken.lower.tolist() == [0.5, -np.inf]
    nothing = np.zeros((1, 1))
    broken.pool.add(np.array([-np.inf]), np.array([0]), nothing, Weights(nothing, nothing, nothing))
    assert broken.proved.tolist() == [False, False]
