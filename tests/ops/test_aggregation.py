"""Aggregation rules: laws of all of them, known answers, and the numbers of ByzFL."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.ops.aggregation.krum import krum_scores, squared_distances
from robustbench_jax.registry import build, discover
from robustbench_jax.types import UserError

KEY = jax.random.key(0)
CALLS = {name: f"{name}(trimmed_mean)" for name in ("arc", "bucketing", "clipping", "nnm")}
RULES = [CALLS.get(name, name) for name in discover("aggregation")]
LOCAL = ("centred_clipping", "clipping(trimmed_mean)", "arc(trimmed_mean)")  # sizes matter: not equivariant to shifts
BYZFL = {  # byzfl 0.0.11 on a copy of `vectors()`, f = 2 (its Clipping and ARC change what they are given)
    "coordinate_median": [0.094012, 0.041326, -0.129614, 0.411631, 0.264456],
    "trimmed_mean": [-0.078195, 0.477168, 0.237578, 0.393626, 0.514722],
    "krum": [-1.009618, -0.209176, -0.159225, 0.540846, 0.214659],
    "mda": [-0.312894, 0.215872, -0.175968, 0.177102, 0.121303],
    "meamed": [-0.312894, 0.215872, -0.175968, 0.177102, 0.121302],
    "geometric_median": [-0.190564, 0.22675, 0.035494, 0.423222, 0.396752],
    "nnm(trimmed_mean)": [-0.312894, 0.215872, -0.175968, 0.177102, 0.121303],
    "arc(trimmed_mean)": [-0.071782, 0.34988, 0.215334, 0.395877, 0.416764],
    "clipping(mean, 1.0)": [-0.068998, 0.104544, 0.020467, 0.186144, 0.151423],
    "centred_clipping(1.0)": [-0.145412, 0.190136, 0.040439, 0.349653, 0.30099],
}

CAF = [-0.295304, 0.16978, -0.162857, 0.225755, 0.23098]  # with 3,000 steps of it in the place of one


def vectors(n: int = 11, d: int = 5) -> np.ndarray:
    v = np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)
    v[-2:] += 4
    return v


def aggregate(text: str, v: np.ndarray, f: int = 2, key: jax.Array = KEY) -> np.ndarray:
    rule = build("aggregation", text)
    rule.check(len(v), f)
    return np.asarray(rule.aggregate(key, jnp.asarray(v), f, jnp.zeros(v.shape[1])))


@pytest.mark.parametrize("text", BYZFL)
def test_rules_equal_byzfl(text):
    np.testing.assert_allclose(aggregate(text, vectors()), BYZFL[text], atol=2e-6)


def test_multi_krum_keeps_two_vectors_fewer_than_byzfl():
    """The paper's m is at most n - f - 2; ByzFL averages the n - f best, by scores over n - f - 1 neighbours."""
    v = vectors()
    away = np.asarray(squared_distances(v))
    theirs = v[np.argsort(np.sort(away, 1)[:, 1:9].mean(1))[:9]].mean(0)
    np.testing.assert_allclose(theirs, [-0.312894, 0.215872, -0.175968, 0.177102, 0.121303], atol=2e-6)
    own = v[np.argsort(np.sort(away, 1)[:, 1:8].sum(1))[:7]].mean(0)
    np.testing.assert_allclose(aggregate("multi_krum", v), own, atol=2e-6)


def test_the_filter_is_byzfls_with_its_power_iteration_run_to_the_end():
    np.testing.assert_allclose(aggregate("caf", vectors()), CAF, atol=2e-6)


@pytest.mark.parametrize("text", [text for text in RULES if "bucketing" not in text])
def test_the_order_of_the_vectors_does_not_matter(text):
    v = vectors()
    order = np.random.default_rng(1).permutation(len(v))
    np.testing.assert_allclose(aggregate(text, v[order]), aggregate(text, v), atol=1e-5)


@pytest.mark.parametrize("text", [text for text in RULES if text not in LOCAL])
def test_a_shift_of_all_vectors_shifts_the_aggregate(text):
    v, shift = vectors(), np.arange(5, dtype=np.float32)
    np.testing.assert_allclose(aggregate(text, v + shift), aggregate(text, v) + shift, atol=1e-4)


@pytest.mark.parametrize("text", RULES)
def test_equal_vectors_are_their_own_aggregate(text):
    v = np.tile(np.linspace(-0.4, 0.4, 5, dtype=np.float32), (11, 1))
    np.testing.assert_allclose(aggregate(text, v), v[0], atol=1e-5)


@pytest.mark.parametrize("text", RULES)
def test_lies_of_any_size_move_the_aggregate_by_little_unless_it_is_a_mean(text):
    v = vectors(15)
    honest, f = v[:-2], 2
    moved = []
    for size in (1e2, 1e4, 1e6):
        v[-2:] = size
        moved.append(np.linalg.norm(aggregate(text, v, f) - honest.mean(0)))
    if text == "mean":
        assert moved[-1] > 1e5
    else:
        spread = 15 if "clipping" in text else 3 * np.linalg.norm(honest - honest.mean(0), axis=1).max()
        assert max(moved) < spread


def test_krum_returns_one_of_the_vectors_and_its_score_is_the_papers():
    v = vectors()
    scores = []
    for i in range(11):
        others = sorted(float(np.sum((v[i] - v[j]) ** 2)) for j in range(11) if j != i)
        scores.append(sum(others[: 11 - 2 - 2]))
    np.testing.assert_allclose(krum_scores(squared_distances(v), 2), scores, rtol=1e-5)
    np.testing.assert_array_equal(aggregate("krum", v), v[np.argmin(scores)])


def test_bulyan_chooses_by_krum_again_and_again():
    v = vectors()
    left, chosen = list(range(11)), []
    for _ in range(11 - 4):
        scores = {}
        for i in left:
            others = sorted(float(np.sum((v[i] - v[j]) ** 2)) for j in left if j != i)
            scores[i] = sum(others[: max(len(left) - 4, 1)])
        best = min(left, key=scores.get)
        left.remove(best)
        chosen.append(v[best])
    chosen = np.stack(chosen)
    order = np.argsort(np.abs(chosen - np.median(chosen, 0)), 0, kind="stable")[: 11 - 8]
    np.testing.assert_allclose(aggregate("bulyan", v), np.take_along_axis(chosen, order, 0).mean(0), atol=1e-5)


def test_mda_keeps_the_subset_of_the_smallest_diameter():
    v = vectors(7)
    best = min(
        itertools.combinations(range(7), 5),
        key=lambda rows: max(np.linalg.norm(v[i] - v[j]) for i in rows for j in rows),
    )
    np.testing.assert_allclose(aggregate("mda", v), v[list(best)].mean(0), atol=1e-6)


def test_the_geometric_median_has_no_gradient_left():
    v = vectors()
    at = aggregate("geometric_median(1000, 1e-9)", v)
    pull = (v - at) / np.linalg.norm(v - at, axis=1, keepdims=True)
    assert np.linalg.norm(pull.sum(0)) < 1e-3


def test_a_difference_of_zero_is_clipped_to_zero_and_not_to_nothing():
    v = np.zeros((5, 3), np.float32)
    np.testing.assert_array_equal(aggregate("centred_clipping", v, 1), np.zeros(3))


def test_buckets_are_drawn_anew_and_their_means_have_the_mean_of_all():
    v = vectors(10)
    np.testing.assert_allclose(aggregate("bucketing(mean)", v), v.mean(0), atol=1e-6)
    one, other = (aggregate("bucketing(coordinate_median)", v, key=jax.random.key(i)) for i in (1, 2))
    assert np.any(one != other)


@pytest.mark.parametrize(
    "text, n, f, message",
    [
        ("krum", 6, 2, "krum: f = 2 of n = 6; at most 1"),
        ("bulyan", 10, 2, "bulyan: f = 2 of n = 10; at most 1"),
        ("trimmed_mean", 4, 2, "trimmed_mean: f = 2 of n = 4; at most 1"),
        ("bucketing(trimmed_mean, size=2)", 8, 2, "f = 2 of 4 buckets of n = 8; at most 1"),
        ("nnm(krum)", 6, 2, "krum: f = 2 of n = 6"),
        ("mda", 40, 19, "subsets; at most 20,000"),
    ],
)
def test_more_liars_than_a_rule_is_made_for_are_refused(text, n, f, message):
    with pytest.raises(UserError, match=message):
        build("aggregation", text).check(n, f)
