"""Laws of all monitors: false alarms at the stated rate, verdicts that depend on what they should, bounded states."""

import json
import pickle

import jax
import numpy as np
import pytest
from scipy.stats import betabinom

from robustbench_jax.data import load_dataset
from robustbench_jax.models import build_model
from robustbench_jax.registry import build, discover, entry
from robustbench_jax.streams import DAY, answered
from robustbench_jax.traffic import Request, Watch, replay, services
from robustbench_jax.types import UserError
from tests.oracles import small

KEY = jax.random.key(0)
RATE, DAYS = 0.05, 60
SMALL = {  # call strings whose states are full after a few requests
    "blacklight": "blacklight(capacity=20)",
    "coverage": "coverage(cells=16)",
    "prada": "prada(window=20, capacity=30)",
    "query_rate": "query_rate(capacity=20)",
    "seat": "seat(capacity=20)",
    "stateful_distance": "stateful_distance(capacity=20)",
}
MORE = {
    "out_of_distribution": ("out_of_distribution('max_softmax')", "out_of_distribution('mahalanobis')"),
    "prada": ("prada(window=50, across=true)",),
    "seat": ("seat('pixels')",),
    "stateful_distance": ("stateful_distance(encoder='features', across=true)",),
    "drift": ("drift(across=true)",),
}
NAMES = list(discover("monitor"))
CALLS = [call for name in NAMES for call in (name, *MORE.get(name, ()))]
NEAR = ("blacklight", "seat", "stateful_distance")  # that look for near-duplicates


def with_rate(call: str) -> str:
    return f"{call}(rate={RATE})" if "(" not in call else f"{call[:-1]}, rate={RATE})"


@pytest.fixture(scope="module")
def images():
    """(training images, others) of 14 x 14 pixels."""
    return [small(load_dataset("fashion_mnist_mini", split, 1500)) for split in ("train", "test")]


@pytest.fixture(scope="module")
def model():
    return build_model("mlp([16])", (14, 14, 1), 10, KEY)


@pytest.fixture(scope="module")
def prepared(images, model):
    made = {}

    def prepare(call):
        if call not in made:
            made[call] = build("monitor", with_rate(call)).prepare(KEY, model, images[0], days=DAYS)
        return made[call]

    return prepare


@pytest.fixture(scope="module")
def days(images, model):
    made = {}

    def of(warm):
        if warm not in made:
            made[warm] = list(services(jax.random.key(1), model, images[1], 40, warm + 1))
        return made[warm]

    return of


def requests(model, x, accounts=("a",), every=1.0):
    found = answered(model, [np.asarray(x, np.uint8)])[0]
    rows = enumerate(zip(found.x, found.logits, strict=True))
    return [Request(accounts[i % len(accounts)], i * every, i, *both) for i, both in rows]


def scores(monitor, asked):
    return [verdicts["m"].score for _, verdicts in replay({"m": monitor}, asked)]


@pytest.mark.parametrize("call", CALLS)
def test_honest_accounts_raise_no_more_alarms_than_the_rate_says(call, prepared, days):
    """Of n new days as many are above the threshold as a beta-binomial says, if they are like those it is made of."""
    monitor = prepared(call)
    alarmed = set()
    for number, service in enumerate(days(monitor.warm)):
        for request, verdicts in replay({"m": monitor}, service):
            if verdicts["m"].alarm and request.time >= monitor.warm * DAY:
                alarmed.add((number, request.account))
    allowed = int(np.floor(RATE * (DAYS + 1)))
    assert len(alarmed) <= betabinom.ppf(0.9999, 40, allowed, DAYS + 1 - allowed)


@pytest.mark.parametrize("call", CALLS)
def test_the_same_stream_gets_the_same_verdicts_that_json_can_hold(call, prepared, days):
    monitor, service = prepared(call), days(1)[0][:150]
    first, second = ([v["m"] for _, v in replay({"m": monitor}, service)] for _ in range(2))
    assert first == second
    for verdict in first:
        assert np.isfinite(verdict.score) and isinstance(verdict.alarm, bool)
        assert verdict.alarm == (verdict.score > verdict.evidence["threshold"])
        assert json.loads(json.dumps(verdict.evidence, allow_nan=False)) == verdict.evidence


@pytest.mark.parametrize("call", CALLS)
def test_other_accounts_change_nothing_for_a_monitor_of_single_accounts(call, prepared, days):
    monitor, service = prepared(call), days(1)[0]
    one = next(request.account for request in service)
    alone = scores(monitor, [request for request in service if request.account == one])
    among = [v["m"].score for request, v in replay({"m": monitor}, service) if request.account == one]
    assert monitor.across or alone == among


@pytest.mark.parametrize("name", NAMES)
def test_a_state_does_not_grow_for_ever(name, images, model):
    """Within one day, so that nothing is forgotten for its age."""
    monitor = build("monitor", SMALL.get(name, name)).learn(KEY, model, images[0])
    state, sizes = monitor.init(), []
    for number, request in enumerate(requests(model, images[1].x[:600], every=0.01)):
        monitor.score(state, request)
        if number in (299, 599):
            sizes.append(len(pickle.dumps(state)))
    assert sizes[1] < 1.3 * sizes[0]


@pytest.mark.parametrize("name", NEAR)
def test_near_duplicates_are_found_and_images_sent_again_are_no_more_than_they_were(name, prepared, images, model):
    rng, x = np.random.default_rng(0), images[1].x[0]
    near = np.clip(x + rng.normal(0, 1, (60, *x.shape)), 0, 255).round()
    verdicts = [v["m"] for _, v in replay({"m": prepared(name)}, requests(model, near))]
    assert any(verdict.alarm for verdict in verdicts) and not verdicts[0].alarm
    if name != "stateful_distance":
        again = [v["m"] for _, v in replay({"m": prepared(name)}, requests(model, np.stack([x] * 60)))]
        assert not any(verdict.alarm for verdict in again)


@pytest.mark.parametrize("name", NAMES)
def test_a_monitor_without_a_threshold_says_so(name, images, model):
    monitor = build("monitor", name).learn(KEY, model, images[0])
    with pytest.raises(UserError, match=f"{name}: it has no threshold yet"):
        monitor.update(monitor.init(), requests(model, images[1].x[:1])[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_given_threshold_stays_and_rates_are_rates(name, images, model):
    monitor = build("monitor", f"{name}(threshold=0.5)").prepare(KEY, model, images[0])
    assert monitor.threshold == 0.5
    for rate in (0, 1, -0.1):
        with pytest.raises(UserError, match=f"{name}: rate = {rate}"):
            build("monitor", f"{name}(rate={rate})")
    with pytest.raises(UserError, match="tell no rate below 0.048"):
        build("monitor", f"{name}(rate=0.01)").prepare(KEY, model, images[0], days=20)


@pytest.mark.parametrize("name", NAMES)
def test_every_monitor_says_where_it_is_from(name):
    assert entry("monitor", name).paper or name == "query_rate"


def test_a_watch_forgets_whom_it_has_not_seen_for_longest(prepared, images, model):
    asked = requests(model, images[1].x[:6], accounts=("a", "b", "a", "c", "a", "b"))
    watch = Watch({"rate": prepared("query_rate")}, accounts=2)
    seen = [watch.see(request)["rate"].score for request in asked]
    assert seen == [1, 1, 2, 1, 3, 1]  # b was forgotten when c came


def test_a_copy_of_a_watch_goes_its_own_way(prepared, days):
    service = days(1)[0]
    watch = Watch({name: prepared(name) for name in ("blacklight", "seat")})
    for request in service[:100]:
        watch.see(request)
    copy = watch.copy()
    expected = [copy.see(request) for request in service[100:200]]
    assert [watch.see(request) for request in service[100:200]] == expected
