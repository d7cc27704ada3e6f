"""Attacks from labels alone: the exact distance on linear models, their starts, their geometry, their queries."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback

from robustbench_jax.attacks.evasion import hop_skip_jump, label_search, rays, surfree
from robustbench_jax.ops.drive import drive
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.views import view
from robustbench_jax.registry import build
from robustbench_jax.types import Classifier, Problem, UserError
from tests import oracles
from tests.oracles import affine

COUNT, SHAPE = 16, (6, 6, 1)
REACHED = {  # median of the size found over the exact distance
    ("boundary(queries=2000)", "l2"): 1.01,
    ("hop_skip_jump(queries=2000)", "l2"): 1.05,
    ("hop_skip_jump(queries=2000)", "linf"): 1.08,
    ("rays(queries=2000)", "linf"): 1.02,
    ("sign_opt(queries=2000)", "l2"): 1.01,
    ("surfree(queries=2000, band=1.0)", "l2"): 1.03,
}
WIDEST = {"linf": 1, "l2": 6}
every = pytest.mark.parametrize("attack, ball", REACHED)
SHORT = ["boundary", "hop_skip_jump(samples=5)", "rays", "sign_opt(directions=2, samples=5)", "surfree"]


@functools.cache
def found(attack: str, ball: str, scale: float = 1.0):
    oracle = oracles.linear()
    model = oracle.model.replace(params=jax.tree.map(lambda value: scale * value, oracle.model.params))
    x, y = oracle.data.x[:COUNT], oracle.data.y[:COUNT]
    budget, pool = build("budget", f"{ball}({WIDEST[ball]})"), (oracle.data.x[COUNT:], oracle.data.y[COUNT:])
    return drive(jax.random.key(0), build("attack", attack), model, budget, x, y, pool=pool)


def problem(ball: str, model, x, y: int = 0, goal: str = "untargeted", target: int = -1) -> Problem:
    seen, budget = view(model, "labels"), build("budget", f"{ball}({WIDEST[ball]})")
    return Problem(seen, budget, goal, jnp.asarray(x), jnp.int32(y), jnp.int32(target), jnp.int32(0))


def walk(attack, asked: Problem, steps: int, key: int = 0):
    """All states of one run, the first included."""
    step, key = jax.jit(attack.step), jax.random.key(key)
    states = [attack.init(key, asked)]
    for t in range(steps):
        states.append(step(jax.random.fold_in(key, t), asked, states[-1]))
    return states


def side(weights=None, at: float = 0.0) -> Classifier:
    """Class 1 where the mean of (x - 1/2) * weights exceeds `at`, else class 0."""
    w = np.ones(36) / 36 if weights is None else np.asarray(weights) / 36
    b = -0.5 * w.sum() - at
    return Classifier(
        affine, {"w": jnp.asarray(np.stack([0 * w, w], 1), jnp.float32), "b": jnp.array([0, b], jnp.float32)}
    )


@every
def test_the_exact_distance_of_a_linear_model_is_reached_and_never_undercut(attack, ball):
    result, exact = found(attack, ball), oracles.linear().distance(ball)[:COUNT]
    assert result.success.all()
    assert np.all(result.size >= exact * (1 - 1e-4))
    assert np.median(result.size / exact) <= REACHED[attack, ball]


@every
def test_every_query_of_the_budget_is_spent_and_no_other(attack, ball):
    assert (found(attack, ball).forwards == 2000).all() and not found(attack, ball).gradients.any()


@every
def test_labels_are_all_that_it_sees(attack, ball):
    """Scores a hundred times as large, of the same labels, change nothing."""
    np.testing.assert_array_equal(found(attack, ball).x_adv, found(attack, ball, 128.0).x_adv)


@every
def test_towards_the_other_of_two_classes_it_gets_as_near(attack, ball):
    aimed, exact = found(f"targeted({attack})", ball), oracles.linear().distance(ball)[:COUNT]
    assert aimed.success.all() and np.all(aimed.size >= exact * (1 - 1e-4))
    assert np.median(aimed.size / exact) <= 1.02 * REACHED[attack, ball]


def test_hop_skip_jump_in_linf_is_not_its_l2_form():
    """foolbox #494: each norm has its own steps; in Linf all entries of the perturbation are nearly of one size."""
    clean = as_unit(oracles.linear().data.x[:COUNT])
    for ball, least, most in (("linf", 0.9, 1.0), ("l2", 0.0, 0.7)):
        delta = np.abs(found("hop_skip_jump(queries=2000)", ball).x_adv - clean).reshape(COUNT, -1)
        flatness = np.median(np.sqrt(np.mean(delta**2, axis=1)) / delta.max(axis=1))
        assert least <= flatness <= most


@pytest.mark.parametrize("text", SHORT)
def test_compiled_it_asks_as_often_as_it_counts(text):
    attack, asked, model = build("attack", text), [], side()

    def net(params, x):
        logits = affine(params, x)
        return io_callback(lambda z: (asked.append(1), z)[1], jax.ShapeDtypeStruct((2,), jnp.float32), logits)

    ball = "linf" if text == "rays" else "l2"
    states = walk(attack, problem(ball, Classifier(net, model.params), np.full(SHAPE, 0.4)), 60)
    jax.block_until_ready(states[-1])
    assert len(asked) == int(states[-1].forwards) == 60
    assert np.isfinite(states[-1].best)


@pytest.mark.parametrize("text", SHORT)
def test_a_misclassified_image_is_no_trap(text):
    """foolbox #670: NaN, or a loop without end, where the image itself is adversarial."""
    x = np.full(SHAPE, 0.6)
    last = walk(build("attack", text), problem("linf" if text == "rays" else "l2", side(), x), 80)[-1]
    assert np.isfinite(last.x_adv).all() and 0 <= last.x_adv.min() and last.x_adv.max() <= 1
    assert last.best < 0.1


@pytest.mark.parametrize("text", SHORT)
def test_where_nothing_is_adversarial_it_hands_in_the_image(text):
    last = walk(build("attack", text), problem("linf" if text == "rays" else "l2", side(at=9), np.full(SHAPE, 0.4)), 40)
    np.testing.assert_allclose(last[-1].x_adv, 0.4)
    assert np.isinf(last[-1].best) and last[-1].forwards == 40


def pooled(values: list[float], labels: list[int], text: str = "boundary"):
    """The attack after it was handed uniformly grey images with these labels."""
    x = np.stack([np.full(SHAPE, value, np.float32) for value in values])
    return build("attack", text).prepare(jax.random.key(0), None, None, x, np.array(labels), None)


def starts(attack, asked: Problem, count: int) -> list:
    """The mean of each of the first images that it would ask."""
    state = attack.init(jax.random.key(0), asked)
    ask = [attack.candidate(jax.random.key(1), asked, state.replace(asked=jnp.int32(n))) for n in range(count)]
    return [float(np.mean(z)) if np.ptp(z) < 1e-6 else None for z in ask]


def test_a_start_is_noise_and_then_the_nearest_images_with_another_label():
    asked = problem("l2", side(), np.full(SHAPE, 0.2))
    attack = pooled([0.1, 0.9, 0.6, 0.2, 0.7], [0, 1, 2, 0, 1])
    seen = starts(attack, asked, label_search.TRIES + 4)
    assert seen[: label_search.TRIES] == [None] * label_search.TRIES
    assert seen[label_search.TRIES :] == pytest.approx([0.6, 0.7, 0.9, None])


def test_towards_a_target_its_images_come_first_and_no_others():
    asked = problem("l2", side(), np.full(SHAPE, 0.2), goal="targeted", target=1)
    attack = pooled([0.1, 0.9, 0.6, 0.2, 0.7], [0, 1, 2, 0, 1])
    assert starts(attack, asked, 3) == pytest.approx([0.7, 0.9, None])


def test_images_start_what_noise_does_not_and_one_that_is_right_costs_a_query():
    """Only images above 0.9 are adversarial; the nearest of the other label is not."""
    asked, attack = problem("l2", side(at=0.4), np.full(SHAPE, 0.2)), pooled([0.8, 1.0], [1, 1])
    states = walk(attack, asked, label_search.TRIES + 30)
    assert [bool(np.isfinite(s.best)) for s in states].index(True) == label_search.TRIES + 2
    assert states[-1].best < 6 * 0.8 * 0.9


def test_the_pool_is_spread_evenly_over_classes():
    y = np.repeat([0, 1, 2], [400, 20, 5])
    attack = build("attack", "rays").prepare(jax.random.key(0), None, None, np.zeros((425, *SHAPE)), y, None)
    assert len(attack.pool.y) == label_search.POOLED
    assert np.bincount(attack.pool.y)[1:].tolist() == [20, 5]


def test_the_first_normal_that_hop_skip_jump_estimates_is_near_the_true_one():
    """Of 2,000 points in 36 dimensions the cosine is about sqrt(n / (n + d pi / 2))."""
    w = np.abs(np.random.default_rng(0).normal(size=36))
    attack = build("attack", "hop_skip_jump(samples=2000)")
    last = [s for s in walk(attack, problem("l2", side(w), np.full(SHAPE, 0.45)), 2100) if s.phase == 3][0]
    assert float(np.sum(last.uphill.ravel() * w) / np.linalg.norm(w)) > 0.95
    assert float(np.linalg.norm(last.uphill)) == pytest.approx(1, rel=1e-4)


def test_a_step_of_hop_skip_jump_that_never_succeeds_is_given_up():
    state = build("attack", "hop_skip_jump").init(jax.random.key(0), problem("l2", side(), np.full(SHAPE, 0.4)))
    state = label_search.entered(state, hop_skip_jump.STEP, stride=jnp.ones(()))
    state = state.replace(asked=jnp.int32(3))
    again = hop_skip_jump._shorter(state, jnp.zeros((), bool))
    assert again.phase == hop_skip_jump.STEP and again.stride == 0.5
    over = hop_skip_jump._shorter(state.replace(asked=jnp.int32(hop_skip_jump.HALVINGS)), jnp.zeros((), bool))
    assert over.phase == hop_skip_jump.ESTIMATE and over.asked == 0


@pytest.mark.parametrize("shape", [(6, 6, 1), (4, 4, 3), (7, 3, 2)])
def test_rays_flips_the_whole_then_halves_and_at_each_level_every_entry_once(shape):
    state = build("attack", "rays").init(jax.random.key(0), problem("linf", side(), np.full(shape, 0.4)))
    flips = {level: [] for level in range(5)}
    while state.level < 4:
        flips[int(state.level)].append(np.asarray(state.far != state.signs))
        state = rays._next(state)
    for level in range(4):
        np.testing.assert_array_equal(np.sum(flips[level], axis=0), 1)
    assert flips[0][0].all() and flips[1][0].sum() == -(-np.prod(shape) // 2)


def test_rays_flips_one_channel_after_another():
    state = build("attack", "rays").init(jax.random.key(0), problem("linf", side(), np.full((4, 4, 2), 0.4)))
    first = np.asarray(rays._next(state).far != state.signs)
    assert first[..., 0].all() and not first[..., 1].any()


def test_after_single_entries_rays_begins_again_with_the_whole():
    state = build("attack", "rays").init(jax.random.key(0), problem("linf", side(), np.full(SHAPE, 0.4)))
    levels = []
    for _ in range(1 + 2 + 4 + 8 + 12 + 18 + 36 + 36):
        levels.append(int(state.level))
        state = rays._next(state)
    assert max(levels) == 6 and levels[-1] < 6 and int(state.level) <= 6


def test_the_points_of_surfree_lie_on_a_circle_in_a_plane_orthogonal_to_those_before():
    asked = problem("l2", side(), np.full(SHAPE, 0.45))
    attack = build("attack", "surfree(band=1.0)")
    drawn = [s for s in walk(attack, asked, 60) if s.drawn > 0]
    for state in drawn[::5]:
        u, v = state.z - asked.x, state.v
        assert float(np.sum(u * v)) == pytest.approx(0, abs=1e-5)
        assert float(np.linalg.norm(v)) == pytest.approx(1, rel=1e-4)
        for angle in (0.1, -0.3):
            point = surfree._on_circle(asked.x, state, jnp.float32(angle))
            if point.min() > 0 and point.max() < 1:
                expected = np.cos(angle) * np.linalg.norm(u)
                assert float(np.linalg.norm(point - asked.x)) == pytest.approx(expected, rel=1e-4)
    past = np.asarray(drawn[-1].past).reshape(surfree.REMEMBERED, -1)
    last = int(drawn[-1].drawn - 1) % surfree.REMEMBERED
    assert np.abs(past[last] @ np.delete(past, last, axis=0).T).max() < 1e-3


@pytest.mark.parametrize("band", [0.1, 0.5])
def test_surfree_keeps_to_the_low_frequencies(band):
    kept = np.asarray(surfree._lowest((8, 8, 3), band))[..., 0]
    assert kept.sum() == np.ceil(64 * band) and kept[0, 0] and not kept[7, 7]
    rows, columns = np.nonzero(kept)
    assert (rows + columns).max() <= np.add(*np.nonzero(~kept)).min()


def test_a_proposal_of_the_boundary_attack_is_nearer_by_its_source_step():
    from robustbench_jax.attacks.evasion import boundary

    asked = problem("l2", side(), np.full(SHAPE, 0.45))
    state = build("attack", "boundary").init(jax.random.key(0), asked)
    state = state.replace(z=asked.x + 0.1 * jax.random.normal(jax.random.key(1), SHAPE))
    distance = float(np.linalg.norm(state.z - asked.x))
    on_sphere, proposal = boundary._moves(jax.random.key(2), asked.x, state)
    assert float(np.linalg.norm(on_sphere - asked.x)) == pytest.approx(distance, rel=1e-4)
    assert float(np.linalg.norm(on_sphere - state.z)) == pytest.approx(0.01 * distance, rel=1e-3)
    assert float(np.linalg.norm(proposal - asked.x)) == pytest.approx(0.99 * distance, rel=1e-4)


def test_sign_opt_follows_directions_that_only_get_nearer():
    states = walk(
        build("attack", "sign_opt(directions=3, samples=20)"), problem("l2", side(), np.full(SHAPE, 0.4)), 1000
    )
    distance = np.array([float(s.distance) for s in states])
    assert np.all(np.diff(distance[np.isfinite(distance)]) <= 0)
    assert distance[-1] == pytest.approx(0.1 * 6, rel=0.1)


@pytest.mark.parametrize(
    "text, message",
    [
        ("boundary(queries=0)", "boundary: queries = 0"),
        ("boundary(source_step=0)", "boundary: source_step = 0"),
        ("hop_skip_jump(samples=0)", "hop_skip_jump: samples = 0"),
        ("rays(pool=1)", "rays' has no argument 'pool'"),
        ("sign_opt(step_size=-1)", "sign_opt: step_size = -1"),
        ("surfree(band=1.5)", "surfree: band = 1.5 must be at most 1"),
        ("surfree(band=0)", "surfree: band = 0"),
    ],
)
def test_wrong_arguments_are_named(text, message):
    with pytest.raises(UserError, match=message):
        build("attack", text)


def test_surfree_refuses_vectors():
    with pytest.raises(UserError, match=r"surfree needs images \[H, W, C\]; got \[4\]"):
        build("attack", "surfree").init(jax.random.key(0), problem("l2", side(), np.zeros(4)))
