"""http(...): a model behind a real server is attacked as the same model in this process is."""

import json

import jax
import numpy as np
import pytest

import robustbench_jax as rb
from robustbench_jax.bench.cells import make_cell
from robustbench_jax.models.over_http import Http
from robustbench_jax.ops.drive import drive
from robustbench_jax.ops.judge import classify, predict
from robustbench_jax.registry import build
from robustbench_jax.types import Dataset, UserError
from tests.serving.running import CLASSES, FREE, images, running, small_model

CLASS_NAMES = ("a", "b", "c")


@pytest.fixture
def key(monkeypatch):
    """Where the key of a server's account is put: `key(server)` names the place."""

    def put(server, account: str = "alice") -> str:
        monkeypatch.setenv("TEST_KEY", server.keys[account])
        return "env:TEST_KEY"

    return put


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("oracle")) as found:
        yield found


def data(count: int = 12) -> Dataset:
    x = np.round(images(count) * 255).astype(np.uint8)
    return Dataset(x, classify(small_model(), x).astype(np.int32), CLASS_NAMES, "made")


def over_http(server, key, **more):
    return Http(server.url, key=key(server), **more).load()[0]


def test_logits_are_those_of_the_model(server, key):
    x = images(30)
    np.testing.assert_allclose(predict(over_http(server, key), x), predict(small_model(), x), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["square(queries=60)", "hop_skip_jump(queries=200)"])
def test_attacks_find_the_same_as_in_this_process(server, key, attack):
    budget = build("budget", "linf(0.2)" if "square" in attack else "l2(0.6)")
    found = [
        drive(jax.random.key(0), build("attack", attack), model, budget, data().x, data().y)
        for model in (small_model(), over_http(server, key))
    ]
    assert 0 < found[0].success.sum() < 12
    np.testing.assert_array_equal(found[0].success, found[1].success)
    np.testing.assert_allclose(found[0].x_adv, found[1].x_adv, atol=1e-4)


@pytest.mark.slow
def test_a_server_that_gives_labels_alone_is_enough_for_attacks_that_see_labels(tmp_path, key):
    budget, attack = build("budget", "l2(0.6)"), build("attack", "hop_skip_jump(queries=200)")
    with running(tmp_path, answers="labels") as server:
        model = over_http(server, key)
        logits = predict(model, images(5))
        np.testing.assert_array_equal(logits, np.eye(CLASSES)[predict(small_model(), images(5)).argmax(-1)])
        found = drive(jax.random.key(0), attack, model, budget, data().x, data().y)
    expected = drive(jax.random.key(0), attack, small_model(), budget, data().x, data().y)
    np.testing.assert_array_equal(found.success, expected.success)


def test_probabilities_become_logits_up_to_a_constant(tmp_path, key):
    with running(tmp_path, answers="probabilities") as server:
        logits = predict(over_http(server, key), images(5))
    np.testing.assert_allclose(logits, jax.nn.log_softmax(predict(small_model(), images(5))), atol=1e-5)


def test_the_same_image_is_asked_about_once(server, key):
    model, before = over_http(server, key), server.service.limits.spent["alice"]
    x = images(3, seed=9)
    for _ in range(3):
        predict(model, np.concatenate([x, x]))
    assert server.service.limits.spent["alice"] == before + 3


@pytest.mark.slow
def test_the_record_names_the_place_of_the_key_and_never_the_key(server, key):
    record = rb.attack(over_http(server, key), data(), "square(queries=20)", "linf(0.05)", name="served")
    assert server.keys["alice"] not in record.to_json()
    text = f'http("{server.url}", key="{key(server)}")'
    cell = make_cell(model=text, dataset="fashion_mnist_mini", attack="square", budget="linf(0.1)")
    assert "env:TEST_KEY" in cell.model and server.keys["alice"] not in json.dumps(cell.model_dump())


def test_a_key_in_a_call_string_makes_no_cell_and_is_not_repeated():
    with pytest.raises(UserError, match='write key="env:NAME"') as caught:
        make_cell(
            model='http("http://127.0.0.1:1", key="rbj_verysecret")',
            dataset="fashion_mnist_mini",
            attack="square",
            budget="linf(0.1)",
        )
    assert "rbj_verysecret" not in str(caught.value)


@pytest.mark.parametrize("attack", ["pgd", "autoattack", "cascade([square, fgsm])", "adaptive(pgd)"])
def test_attacks_that_need_gradients_are_refused_before_anything_is_asked(server, key, attack):
    model, before = over_http(server, key), server.service.limits.spent["alice"]
    with pytest.raises(UserError, match="needs gradients, and a model over http gives none"):
        rb.attack(model, data(), attack, "linf(0.05)", name="served")
    assert server.service.limits.spent["alice"] == before


def test_a_limit_on_the_rate_is_waited_for(tmp_path, key):
    accounts = {"alice": {"rate": 20.0, "burst": 1}, "slow": {"rate": 0.01, "burst": 1}}
    with running(tmp_path, accounts=accounts, limits={"images": 2}) as server:
        model = over_http(server, key)
        np.testing.assert_allclose(predict(model, images(10)), predict(small_model(), images(10)), atol=1e-6)
        key(server, "slow")
        Http(server.url, key="env:TEST_KEY").load()
        with pytest.raises(UserError, match=r"429: more than 0.01 requests a second.*\(waited 0 s of 5\)"):
            Http(server.url, key="env:TEST_KEY", patience=5.0).load()


@pytest.mark.slow
def test_a_spent_budget_is_one_line_and_what_was_answered_is_not_lost(tmp_path, key):
    accounts = {"alice": FREE | {"budget": 60}, "bob": FREE}
    attack = ("square(queries=60)", "linf(0.03)")
    with running(tmp_path, accounts=accounts) as server:
        kept = str(tmp_path / "answers")
        with pytest.raises(UserError, match=r"429: \d+ of 60 queries are left, \d+ were asked") as caught:
            rb.attack(over_http(server, key, answers=kept), data(), *attack, name="served")
        assert "\n" not in str(caught.value)
        model = Http(server.url, key=key(server, "bob"), answers=kept).load()[0]
        record = rb.attack(model, data(), *attack, name="served")
        spent = server.service.limits.spent
        model = Http(server.url, key=key(server, "bob")).load()[0]
        before = spent["bob"]
        again = rb.attack(model, data(), *attack, name="served")
    assert before + spent["alice"] == spent["bob"] - before  # every answer that the first one paid for was used
    assert record.metrics == again.metrics


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ('http("ftp://x")', "url must be http"),
        ('http("http://me:word@x")', "without a name or password"),
        ('http("http://127.0.0.1:1", key="env:NO_SUCH_KEY")', "no key in the environment variable NO_SUCH_KEY"),
        ('http("http://127.0.0.1:1", key="file:/no/such")', "cannot read the key from /no/such"),
        ('http("http://127.0.0.1:1")', "does not answer"),
        ('http("http://127.0.0.1:1", kee="env:X")', "did you mean 'key'"),
    ],
)
def test_what_is_wrong_is_one_line(call, said):
    with pytest.raises(UserError) as caught:
        build("pretrained", call).load()
    assert said in str(caught.value) and "\n" not in str(caught.value)
