"""Minimal-norm attacks against the exact smallest perturbation: linear models in closed form, a small MLP by a grid."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.ops.drive import drive
from robustbench_jax.ops.images import as_unit
from robustbench_jax.registry import build
from robustbench_jax.types import Classifier, UserError
from tests import oracles

WIDEST = {"linf": 1, "l2": 6, "l1": 36, "l0": 36}
FAST = {
    ("deepfool", "linf"): 1.03,
    ("deepfool", "l2"): 1.03,
    ("ddn(steps=150, levels=0)", "l2"): 1.02,
    ("fmn(steps=100)", "linf"): 1.01,
    ("fmn(steps=100)", "l2"): 1.01,
    ("fmn(steps=100)", "l1"): 1.01,
    ("fmn(steps=100)", "l0"): 1.0,
    ("pdpgd(steps=200)", "linf"): 1.05,
    ("pdpgd(steps=200)", "l2"): 1.08,
    ("pdpgd(steps=200)", "l1"): 1.08,
    ("pdpgd(steps=200)", "l0"): 1.0,
    ("sigma_zero(steps=100)", "l0"): 1.0,
    ("carlini_wagner(iterations=60, searches=6, c=0.1)", "l2"): 1.05,
    ("carlini_wagner_linf(iterations=20, runs=30, c=0.1, learning_rate=0.02)", "linf"): 1.3,
    ("ead(iterations=100, searches=6, c=0.1, beta=0.05)", "l1"): 1.03,
}
BOXED = {
    ("deepfool", "linf"): 1.15,
    ("deepfool", "l2"): 1.15,
    ("ddn(steps=150, levels=0)", "l2"): 1.04,
    ("fmn(steps=100)", "linf"): 1.01,
    ("fmn(steps=100)", "l2"): 1.01,
    ("fmn(steps=100)", "l1"): 1.01,
    ("fmn(steps=100)", "l0"): 1.0,
    ("pdpgd(steps=200)", "linf"): 1.08,
    ("pdpgd(steps=200)", "l1"): 1.1,
    ("sigma_zero(steps=100)", "l0"): 1.0,
    ("ead(iterations=100, searches=6, c=0.1, beta=0.05)", "l1"): 1.1,
}
every = pytest.mark.parametrize("attack, ball", FAST)


@functools.cache
def linear(edges: bool = False):
    """The linear oracle; with `edges`, a third of the pixels is black and a third white, so that the box cuts balls."""
    oracle = oracles.linear(24)
    if not edges:
        return oracle.model, oracle.data, oracle.weights, oracle.margin
    x = np.random.default_rng(1).choice(np.array([0, 120, 255], np.uint8), oracle.data.x.shape)
    score = np.diff(jax.vmap(oracle.model)(as_unit(x)), axis=1)[:, 0]
    data = oracles.Dataset(x, (score > 0).astype(np.int32), oracle.data.classes, "edges")
    return oracle.model, data, oracle.weights, np.abs(score)


def exact(ball: str, edges: bool = False) -> np.ndarray:
    """The size of the smallest perturbation inside the box that takes the margin to 0 [N]."""
    _, data, w, margin = linear(edges)
    x, lower = as_unit(data.x).reshape(len(data), -1), np.where(data.y == 1, 1, -1)[:, None] * np.sign(w)
    room = np.where(lower > 0, x, 1 - x)
    return np.array([_smallest(ball, np.abs(w), r, m) for r, m in zip(room, margin, strict=True)])


def _smallest(ball, w, room, margin):
    if ball == "l0":
        return 1 + np.searchsorted(np.cumsum(np.sort(w * room)[::-1]), margin)
    if ball == "l1":
        order = np.argsort(-w)
        gained = np.concatenate([[0], np.cumsum((w * room)[order])])
        return np.interp(margin, gained, np.concatenate([[0], np.cumsum(room[order])]))
    slopes = w if ball == "l2" else np.ones_like(w)
    low, high = 0.0, 1e3
    for _ in range(100):
        t = (low + high) / 2
        low, high = (low, t) if np.sum(w * np.minimum(t * slopes, room)) >= margin else (t, high)
    return np.linalg.norm(np.minimum(high * slopes, room), 2 if ball == "l2" else np.inf)


@functools.cache
def found(attack: str, ball: str, edges: bool = False):
    model, data, _, _ = linear(edges)
    return drive(
        jax.random.key(0), build("attack", attack), model, build("budget", f"{ball}({WIDEST[ball]})"), data.x, data.y
    )


def far(sizes: np.ndarray, ball: str) -> np.ndarray:
    """Not the few images that lie next to the boundary: what DDN and C&W begin with is larger than those distances."""
    return sizes > {"linf": 1 / 128, "l2": 0.05, "l1": 0.1, "l0": 0}[ball]


@every
def test_the_exact_distance_of_a_linear_model_is_reached_and_never_undercut(attack, ball):
    result, distance = found(attack, ball), exact(ball)
    ratio = (result.size / distance)[far(distance, ball)]
    assert result.success.all()
    assert np.all(result.size >= distance * (1 - 1e-4))
    assert np.median(ratio) <= FAST[attack, ball]


@pytest.mark.parametrize("attack, ball", BOXED)
def test_where_the_box_cuts_the_ball_the_distance_is_that_inside_the_box(attack, ball):
    result, distance = found(attack, ball, True), exact(ball, True)
    assert result.success.all() and result.x_adv.min() >= 0 and result.x_adv.max() <= 1
    assert np.all(result.size >= distance * (1 - 1e-4))
    assert np.median((result.size / distance)[far(distance, ball)]) <= BOXED[attack, ball]


@pytest.mark.parametrize("attack, ball", [("fmn(steps=100)", "linf"), ("deepfool", "l2"), ("pdpgd(steps=200)", "l1")])
def test_with_two_classes_the_target_is_the_other_class(attack, ball):
    aimed, free = found(f"targeted({attack})", ball), found(attack, ball)
    assert aimed.success.all()
    np.testing.assert_allclose(aimed.size, free.size, rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("attack, ball", [("fmn(steps=100)", "linf"), ("ddn(steps=150, levels=0)", "l2")])
def test_one_run_gives_the_whole_curve(attack, ball):
    result, distance = found(attack, ball), exact(ball)
    for eps in np.quantile(distance, [0.25, 0.5, 0.75]) * 1.005:
        assert abs(np.mean(result.size > eps) - np.mean(distance > eps)) <= 1 / len(distance)


@pytest.mark.parametrize(
    "attack, ball",
    [
        ("deepfool(steps=3)", "linf"),
        ("ddn(steps=12)", "l2"),
        ("fmn(steps=12)", "l0"),
        ("pdpgd(steps=12)", "l1"),
        ("sigma_zero(steps=12)", "l0"),
        ("carlini_wagner(iterations=2)", "l2"),
        ("carlini_wagner_linf(iterations=2, runs=6)", "linf"),
        ("ead(iterations=2)", "l1"),
    ],
)
def test_what_cannot_be_broken_keeps_its_image(attack, ball):
    """A constant model: no gradient, no success, no NaN, and the image comes back as it was."""
    model = Classifier(lambda p, x: p + 0 * jnp.sum(x), jnp.array([1.0, 0.0]))
    data = linear(True)[1].take(4)
    kernel, budget = build("attack", attack), build("budget", f"{ball}({WIDEST[ball]})")
    result = drive(jax.random.key(0), kernel, model, budget, data.x, 0 * data.y)
    assert not result.success.any()
    np.testing.assert_array_equal(result.x_adv, as_unit(data.x))


def bent(params, x):
    """Three classes in the plane, with curved boundaries."""
    hidden = jnp.tanh((x.reshape(-1) - 0.5) @ params["in"] + params["shift"])
    return hidden @ params["out"]


@functools.cache
def plane():
    """A random MLP of two inputs, 16 points, and the smallest adversarial perturbation of each by norm, by a grid."""
    rng = np.random.default_rng(5)
    params = {"in": rng.normal(size=(2, 8)) * 4, "shift": rng.normal(size=8) / 2, "out": rng.normal(size=(8, 3))}
    model = Classifier(bent, jax.tree.map(np.float32, params))
    x = rng.integers(0, 256, (16, 1, 2, 1), np.uint8)
    y = np.argmax(jax.vmap(model)(as_unit(x)), -1).astype(np.int32)
    side = np.linspace(0, 1, 401, dtype=np.float32)
    points = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    answers = np.argmax(jax.vmap(model)(points), -1)
    return (
        model,
        x,
        y,
        [points[answers != label] - as_unit(image).reshape(2) for image, label in zip(x, y, strict=True)],
    )


@pytest.mark.parametrize(
    "attack, ball, norm",
    [
        ("fmn(steps=200, step_size=0.3)", "linf", np.inf),
        ("fmn(steps=200, step_size=0.3)", "l1", 1),
        ("pdpgd(steps=300)", "l2", 2),
        ("carlini_wagner(iterations=80, searches=5, c=0.01)", "l2", 2),
        ("deepfool", "l2", 2),
    ],
)
def test_on_a_curved_boundary_no_attack_beats_the_grid_and_most_come_close(attack, ball, norm):
    model, x, y, wrong = plane()
    smallest = np.array([np.linalg.norm(offsets, norm, axis=1).min() for offsets in wrong])
    result = drive(jax.random.key(0), build("attack", attack), model, build("budget", f"{ball}(2)"), x, y)
    spacing = 2 / 400
    assert np.all(result.size[result.success] >= smallest[result.success] - spacing)
    close = result.success & (result.size <= 1.1 * smallest + spacing)
    assert close.mean() >= (0.5 if attack.startswith(("deepfool", "carlini")) else 0.75)


def test_sparse_attacks_count_entries_and_not_pixels():
    """One entry of one pixel decides: one entry is changed, though the image has three channels."""
    model = Classifier(lambda p, x: jnp.stack([p[0] * x[1, 2, 0] + p[1], jnp.float32(0)]), jnp.array([1.0, -0.25]))
    x = np.full((1, 3, 3, 3), 200, np.uint8)
    for attack in ("sigma_zero(steps=50)", "fmn(steps=50)", "pdpgd(steps=100)"):
        result = drive(jax.random.key(0), build("attack", attack), model, build("budget", "l0(27)"), x, np.array([0]))
        assert result.success.all() and result.size[0] == 1 and np.sum(result.x_adv != as_unit(x)) == 1


def test_a_search_ends_for_its_own_example_alone():
    """An example whose search for c stalls stops early; its neighbour's does not, and gets what it gets alone."""
    model, data, _, _ = linear()
    attack, budget = build("attack", "carlini_wagner(iterations=60)"), build("budget", "l2(6)")
    together = drive(jax.random.key(0), attack, model, budget, data.x, data.y)
    alone = drive(jax.random.key(0), attack, model, budget, data.x[3:4], data.y[3:4], ids=np.array([3]))
    assert len(set(together.gradients.tolist())) > 1
    assert together.gradients[3] == alone.gradients[0]
    np.testing.assert_allclose(together.size[3], alone.size[0], rtol=1e-4)


def test_ddn_hands_in_images_of_whole_levels_unless_told_otherwise():
    result = found("ddn(steps=50)", "l2")
    np.testing.assert_allclose(result.x_adv * 255, np.round(result.x_adv * 255), atol=1e-3)


@pytest.mark.parametrize(
    "text", ["deepfool(steps=0)", "ddn(gamma=0)", "fmn(step_size=-1)", "ead(searches=0)", "pdpgd(ratio=0)"]
)
def test_wrong_arguments_are_named(text):
    with pytest.raises(UserError, match="must be greater than 0"):
        build("attack", text)
