"""NES, SPSA, SimBA and Bandits: what they estimate, what they ask, what they find."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback
from scipy.fft import idctn

from robustbench_jax.attacks.evasion.bandits import Bandits
from robustbench_jax.attacks.evasion.nes import NES
from robustbench_jax.attacks.evasion.simba import SimBA
from robustbench_jax.attacks.evasion.spsa import SPSA
from robustbench_jax.ops import bucket
from robustbench_jax.ops.drive import drive
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.views import view
from robustbench_jax.registry import build
from robustbench_jax.types import Classifier, Problem, UserError
from tests.oracles import affine

SHAPE = (6, 6, 1)
COUNT = 16  # images of the linear oracle
W = np.random.default_rng(0).normal(size=36).astype(np.float32)
ATTACKS = ["nes(queries=37, samples=10)", "spsa(queries=37, samples=10)", "simba(queries=37)", "bandits(queries=37)"]


def hopeless() -> Classifier:
    """Two logits whose margin rises along W and stays far below 0."""
    return Classifier(affine, {"w": jnp.stack([-W / 2, W / 2], 1), "b": jnp.array([20.0, 0.0])})


def states(attack, budget: str, steps: int, value=0.5, model=None) -> list:
    """The states of one run on a grey image, the first included."""
    arguments = jax.random.key(0), attack, model or hopeless(), build("budget", budget)
    x, zero = jnp.full((1, *SHAPE), value), jnp.zeros(1, jnp.int32)
    lanes, state = bucket.start(*arguments, x, zero, jnp.arange(1), zero)
    run = [state]
    for _ in range(steps):
        run.append(bucket.step(*arguments, lanes, run[-1])[0])
    return [jax.tree.map(lambda leaf: np.asarray(leaf[0]), state) for state in run]


def cosine(a, b) -> float:
    return float(np.sum(a.ravel() * b.ravel()) / np.linalg.norm(a) / np.linalg.norm(b))


def broken(text: str, linear, ball: str, eps: float) -> np.ndarray:
    """Which of the first images of the linear oracle it breaks."""
    x, y = linear.data.x[:COUNT], linear.data.y[:COUNT]
    found = drive(jax.random.key(0), build("attack", text), linear.model, build("budget", f"{ball}({eps})"), x, y)
    return found.success


@pytest.mark.parametrize("pairs", [9, 36, 360])
@pytest.mark.parametrize("make", [NES, SPSA])
def test_the_estimate_turns_to_the_gradient_as_pairs_are_added(make, pairs):
    """With n pairs in d dimensions the cosine is about sqrt(n / (n + d)): 0.45, 0.71 and 0.95 for d = 36."""
    width = {"sigma": 0.01} if make is NES else {"delta": 0.01}
    attack = make(samples=2 * pairs + 2, loss="margin", **width)
    last = states(attack, "linf(0.2)", pairs)[-1]
    assert cosine(last.estimate, W) == pytest.approx(np.sqrt(pairs / (pairs + 36)), abs=0.2 if pairs < 100 else 0.03)


def test_spsa_estimates_the_gradient_itself_and_not_its_direction_alone():
    last = states(SPSA(samples=2000), "linf(0.2)", 999)[-1]
    assert float(np.sum(last.estimate.ravel() * W) / np.sum(W * W)) == pytest.approx(0.999, abs=0.15)


@pytest.mark.parametrize("budget", ["linf(0.2)", "l2(1)"])
def test_the_prior_of_bandits_turns_to_the_gradient_summed_over_tiles(budget):
    run = states(Bandits(tile=2, step_size=1e-6), budget, 60)
    tiles = W.reshape(3, 2, 3, 2).sum((1, 3))
    assert cosine(run[60].learnt, tiles) > 0.9 > cosine(run[2].learnt, tiles)


@pytest.mark.parametrize("tile, shape", [(1, (6, 6)), (2, (3, 3)), (4, (2, 2)), (9, (1, 1))])
def test_bandits_moves_whole_tiles(tile, shape):
    last = states(Bandits(tile=tile), "linf(0.1)", 1)[-1]
    delta = last.x_adv[..., 0] - 0.5
    assert last.learnt.shape == (*shape, 1)
    np.testing.assert_array_equal(delta, np.kron(delta[::tile, ::tile], np.ones((tile, tile)))[:6, :6])


@pytest.mark.parametrize("make", [NES, SPSA])
def test_it_moves_each_time_that_its_samples_are_spent(make):
    run = states(make(samples=6), "linf(0.1)", 9)
    moves = [not np.array_equal(a.x_adv, b.x_adv) for a, b in zip(run, run[1:], strict=False)]
    assert moves == [False, False, True] * 3


def test_the_first_move_of_spsa_is_as_long_as_its_step_size_in_every_entry():
    """Adam's first move is the sign of its first gradient."""
    moved = states(SPSA(samples=2, step_size=0.3), "linf(0.1)", 1)[-1].x_adv - 0.5
    np.testing.assert_allclose(np.abs(moved), 0.03, rtol=1e-3)
    moved = states(SPSA(samples=2, step_size=0.3), "l2(0.1)", 1)[-1].x_adv - 0.5
    assert np.linalg.norm(moved) == pytest.approx(0.03, rel=1e-3)


@pytest.mark.parametrize("shape", [(5, 7, 2), (4, 4, 1)])
def test_the_cosines_of_simba_are_the_orthonormal_basis_of_the_inverse_dct(shape):
    count = int(np.prod(shape))
    ours = np.asarray(jax.vmap(lambda k: SimBA(basis="dct")._vector(k, shape))(jnp.arange(count))).reshape(count, count)
    np.testing.assert_allclose(ours @ ours.T, np.eye(count), atol=1e-5)
    theirs = [idctn(one.reshape(shape), axes=(0, 1), norm="ortho").ravel() for one in np.eye(count)]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_simba_tries_every_vector_once_and_low_frequencies_first():
    order = np.asarray(SimBA(basis="dct", low=0.25)._order(jax.random.key(0), (8, 8, 3)))
    np.testing.assert_array_equal(np.sort(order), np.arange(192))
    first = np.unravel_index(order[:12], (8, 8, 3))
    assert first[0].max() < 2 and first[1].max() < 2 and np.any(np.diff(order[:12]) < 0)


def test_simba_asks_forth_then_back_and_not_what_the_box_undoes():
    """In the middle of the box a vector that does not help costs two queries, on a black image one."""
    still = hopeless().replace(params=jax.tree.map(jnp.zeros_like, hopeless().params) | {"b": jnp.array([1.0, 0.0])})
    assert states(SimBA(), "linf(0.1)", 20, value=0.5, model=still)[-1].tried == 10
    assert states(SimBA(), "linf(0.1)", 20, value=0.0, model=still)[-1].tried == 20


def test_the_loss_of_simba_never_falls():
    run = states(SimBA(step_size=0.05), "l2(0.3)", 40)
    losses = np.array([state.loss for state in run])
    assert np.all(np.diff(losses) >= 0) and losses[-1] > losses[0]
    assert 0.2 < np.linalg.norm(run[-1].x_adv - 0.5) <= 0.3 * (1 + 1e-5)


def test_simba_finds_the_corner_of_a_linear_model_in_two_queries_a_pixel(linear):
    distance = linear.distance("linf")[:COUNT]
    eps = float(np.median(distance))
    np.testing.assert_array_equal(broken("simba(queries=73)", linear, "linf", eps), distance < eps)


@pytest.mark.parametrize(
    "text, ball",
    [
        ("nes(queries=2000, samples=40, sigma=0.01)", "linf"),
        ("spsa(queries=2000)", "linf"),
        ("bandits(queries=2000, tile=1)", "linf"),
        ("bandits(queries=2000, tile=1)", "l2"),
        ("simba(queries=500)", "l2"),
        ("simba(queries=1000, basis='dct', step_size=0.02)", "l2"),
    ],
)
def test_a_linear_model_is_broken_just_inside_its_exact_radius_and_not_outside(text, ball, linear):
    distance = linear.distance(ball)[:COUNT]
    eps = float(np.median(distance))
    found = broken(text, linear, ball, eps)
    assert found[distance < 0.85 * eps].all() and not found[distance > eps * (1 + 1e-5)].any()


@pytest.mark.parametrize(
    "name", ["nes(queries=500)", "spsa(queries=500)", "bandits(queries=500, tile=1)", "simba(queries=73)"]
)
def test_targeted_at_the_other_of_two_classes_it_breaks_about_the_same_images(name, linear):
    eps = float(np.median(linear.distance("linf")))
    untargeted, targeted = broken(name, linear, "linf", eps), broken(f"targeted({name})", linear, "linf", eps)
    assert untargeted.sum() > 4 and np.sum(untargeted != targeted) <= 2


@pytest.mark.parametrize("text", ATTACKS)
def test_it_spends_its_queries_to_the_last_that_it_can_use_and_no_more(text):
    x, y = np.full((3, *SHAPE), 100, np.uint8), np.zeros(3, np.int64)
    found = drive(jax.random.key(0), build("attack", text), hopeless(), build("budget", "linf(0.1)"), x, y)
    assert not found.success.any() and not found.gradients.any()
    assert (found.forwards == (37 if text.startswith("simba") else 36)).all()  # the others ask pairs


@pytest.mark.parametrize("text", ATTACKS)
def test_compiled_it_asks_as_often_as_it_counts(text):
    attack, asked = build("attack", text), []

    def net(params, x):
        logits = affine(params, x)
        return io_callback(lambda z: (asked.append(1), z)[1], jax.ShapeDtypeStruct((2,), jnp.float32), logits)

    x, zero = jnp.full(SHAPE, 0.5), jnp.int32(0)
    seen = view(Classifier(net, hopeless().params), "scores")
    problem = Problem(seen, build("budget", "linf(0.1)"), "untargeted", x, zero, zero - 1, zero)
    step = jax.jit(attack.step)
    state = jax.jit(attack.init)(jax.random.key(0), problem)
    for t in range(12):
        state = step(jax.random.key(t), problem, state)
    jax.block_until_ready(state)
    assert len(asked) == int(state.forwards) in (13, 24)


@pytest.mark.parametrize("text", ["nes(400)", "spsa(400)", "bandits(400, tile=1)", "simba(400)"])
def test_an_image_that_falls_early_stops_paying(text, linear):
    """At twice the needed radius the cost is far below the budget, and what was asked last is what is handed in."""
    x, y = linear.data.x[:COUNT], linear.data.y[:COUNT]
    eps = float(2 * linear.distance("linf").max())
    found = drive(jax.random.key(0), build("attack", text), linear.model, build("budget", f"linf({eps})"), x, y)
    assert found.success.all() and np.median(found.forwards) < 200
    logits = np.asarray(jax.vmap(linear.model)(found.x_adv))
    assert (logits.argmax(-1) != y).all() and np.abs(found.x_adv - as_unit(x)).max() <= eps + 1e-6


@pytest.mark.parametrize(
    "text, message",
    [
        ("nes(queries=0)", "nes: queries = 0"),
        ("nes(samples=5)", "nes: samples = 5 must be even"),
        ("nes(sigma=0.0)", "nes: sigma = 0.0"),
        ("nes(momentum=1.0)", "nes: momentum = 1.0"),
        ("nes(loss='margn')", "did you mean 'margin'"),
        ("spsa(samples=0)", "spsa: samples = 0 must be even"),
        ("spsa(delta=-1)", "spsa: delta = -1"),
        ("simba(basis='dtc')", "no basis 'dtc'; did you mean 'dct'"),
        ("simba(low=2.0)", "simba: low = 2.0"),
        ("simba(step_size=0)", "simba: step_size = 0"),
        ("bandits(tile=0)", "bandits: tile = 0"),
        ("bandits(exploration=0)", "bandits: exploration = 0"),
    ],
)
def test_wrong_arguments_are_named(text, message):
    with pytest.raises(UserError, match=message):
        build("attack", text)


@pytest.mark.parametrize("text", ["simba(basis='dct')", "bandits"])
def test_what_needs_images_refuses_vectors(text):
    vector = Classifier(affine, {"w": jnp.ones((4, 2)), "b": jnp.zeros(2)})
    x, y = np.zeros((1, 4), np.float32), np.zeros(1, np.int64)
    with pytest.raises(UserError, match=r"needs images \[H, W, C\]; got \[4\]"):
        drive(jax.random.key(0), build("attack", text), vector, build("budget", "linf(0.1)"), x, y)
