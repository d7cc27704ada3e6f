"""Turns, shifts, flows and colours: the grid against brute force, and every general attack in every budget."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.bench.cells import make_cell
from robustbench_jax.ops.drive import drive
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import build
from robustbench_jax.types import UserError

NARROW = Runtime(width=16)


def attacked(attack, model, data, budget):
    made = build("attack", attack), model, build("budget", budget), data.x, data.y
    return drive(jax.random.key(0), *made, runtime=NARROW)


def test_the_grid_finds_what_brute_force_finds(tiny):
    model, data = tiny
    budget = build("budget", "rotation_translation(10, 1)")
    found = attacked("grid(turns=5, shifts=3)", model, data, "rotation_translation(10, 1)")

    @jax.jit
    def wrong(z, x, y):
        return jax.vmap(lambda x, y: jnp.argmax(model(budget.render(x, z))) != y)(x, y)

    points = itertools.product(np.linspace(-1, 1, 5), np.linspace(-1, 1, 3), np.linspace(-1, 1, 3))
    table = np.array([wrong(np.array(z, np.float32), as_unit(data.x), data.y) for z in points])  # [45, N]
    np.testing.assert_array_equal(found.success, table.any(0))
    first = np.where(table.any(0), table.argmax(0) + 1, 45)
    np.testing.assert_array_equal(found.forwards, first)


def test_a_grid_of_one_point_is_the_image_itself(tiny):
    model, data = tiny
    found = attacked("grid(turns=1, shifts=1)", model, data, "rotation_translation(30, 3)")
    assert not found.success.any()
    np.testing.assert_array_equal(found.x_adv, as_unit(data.x))


@pytest.mark.parametrize("budget", ["rotation_translation(20, 2)", "flow(2.0)", "recolour(0.3)"])
def test_gradients_find_no_less_than_nothing_and_stay_feasible(budget, tiny):
    model, data = tiny
    found = attacked("pgd(steps=10)", model, data, budget)
    made = build("budget", budget)
    assert found.success.any()
    assert np.nanmax(found.size) <= getattr(made, "eps", 1.0) * (1 + 1e-6)
    assert found.x_adv.min() >= 0 and found.x_adv.max() <= 1


@pytest.mark.parametrize("budget", ["rotation_translation(0, 0)", "flow(0)", "recolour(0)"])
def test_nothing_happens_where_nothing_is_allowed(budget, tiny):
    model, data = tiny
    found = attacked("pgd(steps=2)", model, data, budget)
    assert not found.success.any()
    np.testing.assert_array_equal(found.x_adv, as_unit(data.x))


def test_the_grid_takes_rotations_and_translations_only():
    with pytest.raises(UserError, match="attack 'grid' takes no budget 'linf'"):
        make_cell(dataset="fashion_mnist_mini", model="fashion_mnist/clean/standard", attack="grid", budget="linf(0.1)")
