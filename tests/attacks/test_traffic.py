"""Streams of queries: what is recorded of an attack is what it asked, hidden queries are what they are said to be."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from robustbench_jax.attacks.traffic.evading import first_success
from robustbench_jax.keys import stream
from robustbench_jax.models import build_model
from robustbench_jax.models.features import logits_of
from robustbench_jax.ops.balls import Linf
from robustbench_jax.ops.drive import drive
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.recording import Hiding, recorded
from robustbench_jax.registry import build, discover
from robustbench_jax.streams import QueryStream, answered
from robustbench_jax.training import fit
from robustbench_jax.types import Dataset, EvasionAttack, State, UserError, record
from tests.oracles import answer_all, linear, noise_images

KEY = jax.random.key(0)
SHAPE = (8, 8, 1)
CALLS = {
    "evading": "evading(square(queries=60), linf(0.05))",
    "among_natural": "among_natural(jacobian(20, epochs=2), 3)",
    "oars": "oars(square(queries=60), linf(0.05))",
}
NAMES = [name for name, it in discover("attack").items() if it.facts["threat"] == "monitoring"]
RECORDED = [
    *("square", "nes(samples=10)", "simba", "hop_skip_jump(samples=10)"),
    *("boundary", "rays", "surfree", "sign_opt"),
]


@record
class Counting(EvasionAttack):
    """Asks about the image with 1, 2, 3 ... levels added to its first pixel; every second question is one of two."""

    registered, facts = ("attack", "counting"), {"threat": "evasion", "access": "scores"}
    steps = 6

    def init(self, key, problem):
        return State.at(problem.x)

    def step(self, key, problem, state):
        level = (state.forwards + 1) / 255
        problem.logits(problem.x.at[0, 0, 0].add(level))
        problem.logits(problem.x.at[0, 0, 0].add(level + 1 / 255))
        return state.move(problem.x, forwards=1 + state.t % 2, gradients=0)


@pytest.fixture(scope="module")
def service():
    """A model that knows most of its images, and images that it was not trained on."""
    rng = np.random.default_rng(0)
    y = np.arange(400, dtype=np.int32) % 4
    x = np.clip(rng.uniform(80, 180, (4, *SHAPE))[y] + rng.normal(0, 25, (400, *SHAPE)), 0, 255).astype(np.uint8)
    data = Dataset(x, y, tuple("abcd"), "clusters")
    model = build_model("mlp([16])", SHAPE, 4, KEY)
    recipe = build("recipe", "adamw(epochs=10, batch_size=20, learning_rate=0.01)")
    model = fit(KEY, model, data.rows(np.arange(200)), recipe, defence=build("training", "standard"))
    return model, data.rows(np.arange(200, 400))


def test_a_stream_is_what_the_kernel_asked_in_order_and_no_more_than_it_counts(linear):
    x, y = linear.data.x[:3], linear.data.y[:3]
    found = recorded(KEY, Counting(), linear.model, Linf(0.1), x, y, 20, Hiding())
    for image, one in zip(x, found, strict=True):
        levels = one.sent[:, 0, 0, 0].astype(int) - image[0, 0, 0]
        assert levels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]  # 1, 2, 1, 2, 1, 2 questions of six steps
        np.testing.assert_array_equal(one.sent, one.meant)
        np.testing.assert_array_equal(one.sent.reshape(9, -1)[:, 1:], np.repeat(image.reshape(1, -1)[:, 1:], 9, 0))
    assert all(len(one.sent) == 4 for one in recorded(KEY, Counting(), linear.model, Linf(0.1), x, y, 4, Hiding()))


@pytest.mark.parametrize("call", RECORDED)
def test_queries_of_real_attacks_are_recorded_and_end_where_they_succeed(call, service):
    model, data = service
    budget = "linf(0.2)" if call in ("square", "simba", "rays") or call.startswith("nes") else "l2(1.0)"
    streams = build("attack", f"evading({call}, {budget})").record(KEY, model, data, 4, 40)
    right = np.flatnonzero(logits_of(model, data.x).argmax(-1) == data.y)[:4]
    for row, one in zip(right, streams, strict=True):
        assert 1 <= len(one) <= 40 and one.useful.all() and one.x.dtype == np.uint8
        np.testing.assert_allclose(one.logits, logits_of(model, one.x), atol=1e-5)
        wrong = one.logits.argmax(-1) != data.y[row]
        if one.reached is not None:
            assert wrong[one.reached - 1]
        if call in ("square", "simba") and one.reached is not None:
            assert one.reached == len(one)  # these stop at their first success


def test_as_many_queries_are_recorded_as_the_driver_counts(service):
    """A radius of whole levels: rounding to uint8 changes nothing, so that the driver's run is the same one."""
    model, data = service
    attack, budget, x, y = build("attack", "square(queries=60)"), Linf(77 / 255), data.x[:40], data.y[:40]
    driven = drive(KEY, attack, model, budget, x, y)
    found = recorded(stream(KEY, "stage 0"), attack, model, budget, x, y, 60, Hiding())
    assert [len(one.sent) for one in found] == driven.forwards.tolist()
    last = logits_of(model, np.stack([one.sent[-1] for one in found])).argmax(-1)
    np.testing.assert_array_equal(last[driven.success] != y[driven.success], True)
    assert 0.1 < driven.success.mean() < 0.9


def test_hidden_queries_differ_from_what_is_meant_by_noise_or_by_a_move(service):
    model, data = service
    x, y, attack = data.x[:4], data.y[:4], build("attack", "simba(queries=30)")
    noisy = recorded(KEY, attack, model, Linf(0.2), x, y, 30, Hiding(noise=0.05))
    inner = np.concatenate([(it.sent.astype(float) - it.meant)[(it.meant > 60) & (it.meant < 200)] for it in noisy])
    assert inner.std() == pytest.approx(0.05 * 255, rel=0.1)
    for one in recorded(KEY, attack, model, Linf(0.2), x, y, 30, Hiding(moved=2)):
        moves = [(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)]
        for sent, meant in zip(one.sent, one.meant, strict=True):
            assert any(np.array_equal(sent, np.roll(meant, move, (0, 1))) for move in moves)


@pytest.mark.parametrize("name", NAMES)
def test_every_stream_has_as_many_queries_as_it_may_and_the_same_ones_for_a_key(name, service):
    model, data = service
    sender = build("attack", CALLS.get(name, name if name != "jacobian" else "jacobian(20, epochs=2)"))
    assert isinstance(sender, QueryStream) and sender.access in ("scores", "labels", "none")
    send = partial(sender.play, ask=answer_all) if sender.adaptive else sender.record
    streams = send(KEY, model, data, 3, 60)
    again = send(KEY, model, data, 3, 60)
    assert len(streams) == 3
    ends = name in ("evading", "oars")  # with the first success
    for one, other in zip(streams, again, strict=True):
        np.testing.assert_array_equal(one.x, other.x)
        assert len(one) == len(one.logits) == len(one.useful) <= 60 and (ends or len(one) == 60)
    assert not np.array_equal(streams[0].x, streams[1].x)


def test_augmented_images_are_a_step_along_the_sign_of_a_jacobian(service):
    model, data = service
    one = build("attack", "jacobian(seeds=10, step_size=0.1, epochs=5)").record(KEY, model, data, 1, 40)[0]
    seeds, first, second = (one.x[part].astype(int) for part in (slice(10), slice(10, 20), slice(20, 40)))
    assert all(any(np.array_equal(seed, image) for image in data.x) for seed in seeds)
    for before, after in ((seeds, first), (np.concatenate([seeds, first]), second)):
        step = np.abs(after - before)
        assert set(np.unique(step[(before > 26) & (before < 229)])) <= {0, 25, 26} and np.mean(step > 0) > 0.8


def test_dummies_surround_each_query_and_are_of_no_use(service):
    model, data = service
    inner = build("attack", "evading(square(queries=60), linf(0.05))")
    mixed = build("attack", "among_natural(evading(square(queries=60), linf(0.05)), dummies=4)")
    alone = inner.record(stream(KEY, "attack"), model, data, 2, 10)
    for one, other in zip(mixed.record(KEY, model, data, 2, 50), alone, strict=True):
        assert np.flatnonzero(one.useful).tolist() == list(range(4, 5 * len(other), 5))
        np.testing.assert_array_equal(one.x[one.useful], other.x)
        np.testing.assert_array_equal(one.logits[one.useful], other.logits)
        assert one.reached == (None if other.reached is None else 5 * other.reached)
        hiding = one.x[~one.useful]
        assert all(any(np.array_equal(image, known) for known in data.x) for image in hiding)


def test_a_goal_is_reached_by_what_is_meant_and_within_the_budget():
    """On the linear oracle: the first question that a step across the boundary asks about."""
    oracle = linear()
    asked = np.stack([oracle.data.x[0]] * 3).astype(int)
    sign = np.sign(oracle.weights).reshape(6, 6, 1) * (1 if oracle.data.y[0] == 0 else -1)
    asked[1] += (7 * sign).astype(int)  # 7 of 255 is within 0.03
    asked[2] += (9 * sign).astype(int)  # 9 is not
    answers = logits_of(oracle.model, asked.astype(np.uint8)).argmax(-1)
    found = answered(oracle.model, [asked[[0, 2, 1]].astype(np.uint8)])[0]
    within = 3 if answers[1] != oracle.data.y[0] else None
    known = Linf(0.03), oracle.data.x[0], oracle.data.y[0], found
    assert first_success(*known) == within and first_success(*known, np.array([True, True, False])) is None
    assert float(jnp.max(jnp.abs(as_unit(asked[2].astype(np.uint8)) - as_unit(oracle.data.x[0])))) > 0.03 + 0.5 / 255


@pytest.mark.parametrize(
    "call, message",
    [
        ("evading(pgd, linf(0.1))", "evading: pgd is no evasion attack that sees scores or labels alone"),
        ("evading(natural, linf(0.1))", "evading: natural is no evasion attack"),
        ("evading(square, l0(3))", "evading: square takes no budget 'l0'"),
        ("evading(square, linf(0.1), noise=-0.1)", "evading: noise = -0.1 and moved = 0 must be at least 0"),
        ("among_natural(honest)", "among_natural: honest is no attack on a monitored service"),
        (
            "among_natural(oars(square, linf(0.1)))",
            "among_natural: oars asks by what is refused; hide a recorded attack",
        ),
        ("among_natural(natural, 0)", "among_natural: dummies = 0 must be at least 1"),
        ("honest(again=0.6, varied=0.6)", "honest: again = 0.6 and varied = 0.6 must be shares of one whole"),
        ("honest(taste=0.0)", "honest: taste = 0.0 must be greater than 0"),
        ("jacobian(seeds=0)", "jacobian: seeds = 0 must be greater than 0"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(UserError, match=message):
        build("attack", call)


def test_what_cannot_be_recorded_is_said(service):
    model, data = service
    with pytest.raises(UserError, match="targeted: queries are recorded of single untargeted attacks"):
        build("attack", "evading(targeted(square), linf(0.1))").record(KEY, model, data, 2, 10)
    with pytest.raises(UserError, match="streams = 500: the model gets [0-9]+ of 200 images right"):
        build("attack", "evading(square, linf(0.1))").record(KEY, model, data, 500, 10)
    with pytest.raises(UserError, match="jacobian: seeds = 500: the attacker has 200 images"):
        build("attack", "jacobian(seeds=500)").record(KEY, model, data, 1, 600)
    with pytest.raises(UserError, match="traffic: accounts = 9 must be from 1 to queries = 8"):
        build("budget", "traffic(1, 8, accounts=9)")
    assert noise_images(1).x.dtype == np.uint8
