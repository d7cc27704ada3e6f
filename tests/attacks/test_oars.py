"""An attack that learns from refusals: what it asks again, what it finds, when it gives up."""

import jax
import numpy as np
import pytest

from robustbench_jax.models import build_model
from robustbench_jax.ops.balls import Linf
from robustbench_jax.ops.refusals import Adapting, negotiated
from robustbench_jax.registry import build
from robustbench_jax.threats import monitoring
from robustbench_jax.types import EvasionAttack, State, UserError, record
from tests.oracles import answer_all, noise_images

KEY = jax.random.key(0)
SHAPE = (8, 8, 1)
AS_IT_IS = Adapting("", 0.0, 1.0, 1, 1, 0.0, 20)


@record
class Counting(EvasionAttack):
    """Asks about a black image with 1, 2, 3 ... levels in its first pixel, and about one with twice as many."""

    registered, facts = ("attack", "counting"), {"threat": "evasion", "access": "scores"}
    steps = 100

    def init(self, key, problem):
        return State.at(problem.x)

    def step(self, key, problem, state):
        level = (state.t + 1) / 255
        problem.logits(problem.x.at[0, 0, 0].set(level))
        problem.logits(problem.x.at[0, 0, 0].set(2 * level))
        return state.move(problem.x, forwards=2, gradients=0)


@record
class Spread(EvasionAttack):
    """Asks about a black image with `width` in its first pixel."""

    width: float = 0.0
    registered, facts = ("attack", "spread"), {"threat": "evasion", "access": "scores"}
    steps = 100

    def init(self, key, problem):
        return State.at(problem.x)

    def step(self, key, problem, state):
        problem.logits(problem.x.at[0, 0, 0].set(self.width))
        return state.move(problem.x, forwards=1, gradients=0)


@pytest.fixture(scope="module")
def model():
    return build_model("mlp([8])", SHAPE, 5, KEY)


def levels(talk):
    return [int(image[0, 0, 0]) for image in talk.sent]


def talked(attack, model, ask, queries=20, adapting=AS_IT_IS, count=2):
    x, y = np.zeros((count, *SHAPE), np.uint8), np.zeros(count, np.int32)
    return negotiated(KEY, attack, model, Linf(0.1), x, y, queries, ask, adapting)


def test_a_step_counts_once_all_its_queries_were_answered(model):
    """The service refuses the second attacker's first, fourth and fifth query."""
    heard = [0, 0]

    def ask(who, images):
        told = []
        for row, part in zip(who, images, strict=True):
            answers = []
            for _ in part:
                heard[row] += 1
                answers.append(not (row == 1 and heard[row] in (1, 4, 5)))
                if not answers[-1]:
                    break
            told.append(sum(answers))
        return told

    first, second = talked(Counting(), model, ask, queries=9)
    assert levels(first) == [1, 2, 2, 4, 3, 6, 4, 8, 5] and all(first.answered)
    assert levels(second) == [1, 1, 2, 2, 2, 2, 4, 3, 6]
    assert np.flatnonzero(~np.array(second.answered)).tolist() == [0, 3, 4]


def test_who_is_refused_so_often_in_a_row_gives_up(model):
    def refuse_from_the_third(who, images):
        return [len(part) if part[0][0, 0, 0] < 3 else 0 for part in images]

    one = talked(Counting(), model, refuse_from_the_third, queries=50, count=1)[0]
    assert levels(one) == [1, 2, 2, 4] + [3] * 20 and one.answered == [True] * 4 + [False] * 20


def test_the_number_is_the_smallest_that_is_not_refused_by_bisection(model):
    """Answered from 100 levels on, by one attacker's service, and from 200 by the other's."""

    def ask(who, images):
        return [int(part[0][0, 0, 0] >= (100, 200)[row]) for row, part in zip(who, images, strict=True)]

    adapting = Adapting("width", 0.0, 1.0, 6, 2, 0.0, 3)
    for talk, least in zip(talked(Spread(), model, ask, 20, adapting), (100, 200), strict=True):
        found = levels(talk)[-1]
        assert least <= found <= least + 255 / 2**6 + 1 and talk.useful == [False] * 12 + [True] * 8
        assert all(talk.answered[12:])


def test_where_nothing_is_refused_it_asks_what_the_attack_asks(model):
    data = noise_images(60, SHAPE)
    data = type(data)(data.x, np.asarray(jax.vmap(model)(data.x / 255.0)).argmax(-1), data.classes, data.name)
    for call in ("square(queries=30), linf(0.02)", "hop_skip_jump(samples=5), l2(0.5)"):
        plain = build("attack", f"evading({call})").record(KEY, model, data, 3, 30)
        played = build("attack", f"oars({call})").play(KEY, model, data, 3, 30, answer_all)
        for one, other in zip(plain, played, strict=True):
            np.testing.assert_array_equal(one.x, other.x)
            assert one.reached == other.reached


def test_refused_steps_are_other_draws(model):
    data = noise_images(40, SHAPE)
    data = type(data)(data.x, np.asarray(jax.vmap(model)(data.x / 255.0)).argmax(-1), data.classes, data.name)
    attack = build("attack", "oars(square(queries=30), linf(0.02), patience=10)")
    streams = attack.play(KEY, model, data, 2, 30, lambda who, images: [0] * len(images))
    for one in streams:
        assert len(one) == 10 and len(np.unique(one.x.reshape(10, -1), axis=0)) > 5 and one.reached is None


def test_what_a_service_refuses_is_counted_and_a_success_needs_its_answer(model):
    """A monitor that is alarmed by what is near to an earlier request: far noise passes, small steps do not."""
    data = noise_images(200, SHAPE)
    data = type(data)(data.x, np.asarray(jax.vmap(model)(data.x / 255.0)).argmax(-1), data.classes, data.name)
    monitor = build("monitor", "stateful_distance(k=1, threshold=2.0)").prepare(KEY, model, data)
    budget = build("budget", "traffic(4, 100)")
    near = build("attack", "oars(nes(samples=2, sigma=0.0001), linf(0.3), patience=5)")
    found = monitoring.run(KEY, model, data, near, budget, monitor=monitor)
    assert found.metrics["queries_answered"].value < 3 and found.metrics["success_despite_refusals"].value == 0
    far = build("attack", "oars(nes(samples=2, sigma=0.0001), linf(0.3), 'sigma', 0.0, 1.0, patience=5)")
    learnt = monitoring.run(KEY, model, data, far, budget, monitor=monitor)
    assert learnt.metrics["success_despite_refusals"].value == 1
    assert (learnt.artefacts["answered"] <= 68).all() and "unnoticed_success" in learnt.metrics


@pytest.mark.parametrize(
    "call, message",
    [
        ("oars(pgd, linf(0.1))", "oars: pgd is no evasion attack that sees scores or labels alone"),
        ("oars(square, linf(0.1), 'aera')", "oars: square has no number 'aera'; did you mean 'area'"),
        ("oars(square, linf(0.1), low=0.5, high=0.5)", "oars: low = 0.5 must be at least 0 and below high = 0.5"),
        ("oars(square, linf(0.1), refused=1.0)", "oars: refused = 1.0 must be at least 0 and below 1"),
        ("oars(square, linf(0.1), patience=0)", "oars: patience = 0 must be greater than 0"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(UserError, match=message):
        build("attack", call)
