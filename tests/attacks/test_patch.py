"""Patch attacks: learnt, searched, and by gradients; all stay within their rectangle."""

import jax
import numpy as np
import pytest

from robustbench_jax.keys import stream
from robustbench_jax.ops.drive import drive
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import build

NARROW = Runtime(width=16)
ATTACKS = ["adversarial_patch(updates=10, batch=16)", "patch_rs(queries=30)", "pgd(steps=5)", "mi_fgsm(steps=3)"]


def attacked(attack, model, data, budget="patch(3, 3)"):
    kernel, made = build("attack", attack), build("budget", budget)
    pool = (data.x, data.y)
    return drive(jax.random.key(0), kernel, model, made, data.x, data.y, pool=pool, runtime=NARROW)


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_changes_lies_in_one_rectangle_of_the_patch_s_size(attack, tiny):
    model, data = tiny
    found = attacked(attack, model, data)
    for changed in np.any(found.x_adv != as_unit(data.x), axis=-1):
        rows, columns = np.nonzero(changed.any(1))[0], np.nonzero(changed.any(0))[0]
        assert len(rows) and np.ptp(rows) < 3 and np.ptp(columns) < 3
    assert np.all(np.isin(found.size, [0, 9]))


def test_the_learnt_patch_is_the_same_wherever_it_lies(tiny):
    model, data = tiny
    text, budget = "adversarial_patch(updates=10, batch=16)", build("budget", "patch(3, 3)")
    key = stream(stream(jax.random.key(0), "stage 0"), "prepare")  # what the driver gives
    learnt = build("attack", text).prepare(key, model, budget, data.x, data.y, NARROW).learnt
    patch = np.asarray(learnt[:-3]).reshape(3, 3)
    for x_adv in attacked(text, model, data).x_adv:
        windows = np.lib.stride_tricks.sliding_window_view(x_adv[..., 0], (3, 3))
        assert np.any(np.all(np.isclose(windows, patch, atol=1e-6), axis=(-1, -2)))


def test_a_learnt_patch_beats_the_random_one_that_it_began_as(small_cnn):
    model, data = small_cnn
    broken = [
        attacked(
            f"adversarial_patch(updates={n}, batch=16, step_size={size})", model, data, "patch(5, 5)"
        ).success.sum()
        for n, size in ((1, 1e-6), (60, 0.1))
    ]
    assert broken[0] < broken[1]


def test_random_search_counts_its_queries_and_ends_with_its_first_success(tiny):
    model, data = tiny
    found = attacked("patch_rs(queries=40)", model, data, "patch(4, 4)")
    np.testing.assert_array_equal(found.forwards[~found.success], 40)
    assert found.success.any() and np.all(found.forwards[found.success] <= 40)
    assert not found.gradients.any()


def test_more_queries_break_no_less(small_cnn):
    model, data = small_cnn
    shares = [attacked(f"patch_rs(queries={n})", model, data, "patch(4, 4)").success.mean() for n in (1, 100)]
    assert shares[0] < shares[1]
