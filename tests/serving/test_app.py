"""A real server, real clients: who may ask what, limits under concurrency, the same answers, a log of everything."""

import io
import json
import re
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import jax
import numpy as np
import pytest

from robustbench_jax.bench.clock import Clock
from robustbench_jax.models import build_model
from robustbench_jax.ops.judge import predict
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.serving.accounts import Accounts
from robustbench_jax.serving.audit_log import verify
from robustbench_jax.serving.chain import entries
from tests.serving.running import CLASSES, FREE, NPY, SHAPE, images, npy, running, small_model

ACCOUNTS = {
    "alice": FREE,
    "slow": {"rate": 0.5, "burst": 5},
    "counted": FREE | {"budget": 40},
    "watcher": {"scopes": ("metrics",)},
    "root": FREE | {"scopes": ("admin",)},
    "gone": {"expires": "2020-01-01T00:00:00Z"},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("server"), accounts=ACCOUNTS) as found:
        yield found


def of_kind(running, kind):
    return [entry for entry in entries(running.log) if entry.kind == kind]


def test_answers_are_those_of_the_model_in_this_process_to_the_bit(server):
    for count in (1, 3, 8, 9, 64, 100):
        x = images(count, count)
        expected = predict(small_model(), x, Runtime(width=64))
        response = server.ask(x)
        np.testing.assert_array_equal(np.array(response.json()["scores"], np.float32), expected)


def test_json_and_npy_say_the_same_in_both_directions(server):
    x, client = images(3), server.client()
    said = client.post("/v1/predict", json={"images": x.tolist()}).json()["scores"]
    binary = client.post("/v1/predict", content=npy(x), headers={"content-type": NPY, "accept": NPY})
    np.testing.assert_array_equal(np.load(io.BytesIO(binary.content)), np.array(said, np.float32))


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ("labels", lambda logits: logits.argmax(-1)),
        ("probabilities", lambda logits: np.asarray(jax.nn.softmax(logits))),
    ],
)
def test_the_policy_says_what_is_answered(tmp_path, answers, expected):
    with running(tmp_path, answers=answers) as server:
        said = server.ask(images(5)).json()
    assert list(said) == [answers]
    np.testing.assert_allclose(said[answers], expected(predict(small_model(), images(5))), atol=1e-6)


@pytest.mark.parametrize(
    ("account", "path", "status", "reason"),
    [
        ("nobody", "/v1/model", 401, "key"),
        ("gone", "/v1/model", 401, "key"),
        ("watcher", "/v1/model", 403, "scope"),
        ("alice", "/metrics", 403, "scope"),
        ("alice", "/v1/admin/accounts", 403, "scope"),
        ("alice", "/v2/model", 404, "path"),
        ("alice", "/v1/predict", 405, "path"),
    ],
)
def test_refusals_are_problems_of_one_line(server, account, path, status, reason):
    response = server.client(account).get(path)
    problem = response.json()
    assert (response.status_code, problem["status"], problem["reason"]) == (status, status, reason)
    assert response.headers["content-type"] == "application/problem+json" and "\n" not in problem["detail"]
    assert (status == 401) == ("www-authenticate" in response.headers)


def test_scopes_let_in(server):
    assert server.client().get("/v1/model").json()["shape"] == list(SHAPE)
    assert "robustbench_requests_total" in server.client("watcher").get("/metrics").text
    assert server.client("root").get("/v1/admin/accounts").status_code == 200
    assert httpx.get(f"{server.url}/healthz").text == "ok\n"


def test_a_key_that_is_disabled_counts_no_more_without_a_restart(server):
    path = server.service.policy.accounts
    client = server.client(Accounts.load(path).add("brief", **FREE))
    assert client.get("/v1/model").status_code == 200
    Accounts.load(path).disable("brief")
    assert client.get("/v1/model").status_code == 401


def test_the_wrong_type_is_415_and_a_compressed_body_too(server):
    client = server.client()
    for headers in ({"content-type": "text/plain"}, {}, {"content-type": NPY, "content-encoding": "gzip"}):
        response = client.post("/v1/predict", content=npy(images(1)), headers=headers)
        assert (response.status_code, response.json()["reason"]) == (415, "type")


def test_the_rate_is_kept_and_the_refusal_says_when_to_come_again(server):
    client = server.client("slow")
    with ThreadPoolExecutor(10) as pool:
        responses = list(pool.map(lambda _: client.get("/v1/model"), range(20)))
    counts = Counter(response.status_code for response in responses)
    assert counts[200] in (5, 6) and counts[200] + counts[429] == 20
    refused = next(response for response in responses if response.status_code == 429)
    assert 1 <= int(refused.headers["retry-after"]) <= 2 and 0 < refused.json()["retry_after"] <= 2


def test_a_budget_of_k_is_exactly_k_queries_whoever_asks_at_once(server):
    with ThreadPoolExecutor(16) as pool:
        responses = list(pool.map(lambda i: server.ask(images(3, i), "counted"), range(40)))
    counts = Counter(response.status_code for response in responses)
    assert counts == {200: 13, 429: 27}
    assert server.ask(images(1), "counted").status_code == 200
    last = server.ask(images(1), "counted")
    assert last.status_code == 429 and last.json()["left"] == 0 and "retry-after" not in last.headers
    kept = [entry for entry in of_kind(server, "request") if entry["account"] == "counted"]
    assert sum(entry["images"] for entry in kept) == 40


def test_a_refused_request_costs_no_budget(server):
    before = server.service.limits.spent["alice"]
    assert server.ask(images(1) + 2).status_code == 422
    assert server.service.limits.spent["alice"] == before


def test_requests_of_many_clients_share_calls_and_each_gets_its_own_answer(tmp_path):
    with running(tmp_path, batching={"wait_ms": 100.0, "width": 16}) as server:
        x = images(48)
        with ThreadPoolExecutor(16) as pool:
            responses = list(pool.map(lambda i: server.ask(x[i : i + 1]), range(48)))
        page = server.service.gauges.page().decode()
    calls = float(re.search(r"robustbench_batch_images_count (\S+)", page)[1])
    assert calls < 48 / 3 + 3  # the first two compile
    for i, response in enumerate(responses):
        np.testing.assert_allclose(response.json()["scores"], predict(small_model(), x[i : i + 1]), atol=1e-6)


def test_nothing_compiles_once_it_is_ready(server):
    with Clock() as clock:
        for count in (1, 7, 20, 33, 64, 90):
            assert server.ask(images(count)).status_code == 200
    assert clock.compile_s == 0


def test_a_body_over_the_limit_is_refused_before_it_is_read(tmp_path):
    with running(tmp_path, limits={"body": 1000}) as server:
        host, port = server.url.removeprefix("http://").split(":")
        head = f"POST /v1/predict HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {server.keys['alice']}\r\n"
        head += f"content-type: {NPY}\r\ncontent-length: 1001\r\n\r\n"
        with socket.create_connection((host, int(port)), timeout=10) as raw:
            raw.sendall(head.encode())  # and not one byte of the body
            assert b" 413 " in raw.recv(4096)

        def endless():
            while True:
                yield b"x" * 500

        assert server.client().post("/v1/predict", content=endless(), headers={"content-type": NPY}).status_code == 413
        assert server.ask(images(1)).status_code == 200


def test_a_body_that_never_comes_is_given_up(tmp_path):
    with running(tmp_path, limits={"body_seconds": 0.3}) as server:
        host, port = server.url.removeprefix("http://").split(":")
        head = f"POST /v1/predict HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {server.keys['alice']}\r\n"
        with socket.create_connection((host, int(port)), timeout=10) as raw:
            raw.sendall(f"{head}content-type: {NPY}\r\ncontent-length: 100\r\n\r\nabc".encode())
            assert b" 408 " in raw.recv(4096)


def test_a_full_queue_is_503_and_costs_nothing(tmp_path):
    with running(tmp_path, limits={"images": 4}, batching={"room": 4, "wait_ms": 0.0}) as server:
        model, work = server.service.models["model"], server.service.models["model"].work
        model.work = lambda asked: (time.sleep(0.3), work(asked))[1]
        with ThreadPoolExecutor(8) as pool:
            responses = list(pool.map(lambda i: server.ask(images(4, i)), range(8)))
        counts = Counter(response.status_code for response in responses)
        assert set(counts) == {200, 503} and counts[503] >= 4
        assert server.service.limits.spent["alice"] == 4 * counts[200]
        assert next(r for r in responses if r.status_code == 503).headers["retry-after"] == "1"


def test_every_request_verdict_and_act_is_in_a_log_that_verifies(tmp_path):
    with running(tmp_path, accounts=ACCOUNTS, log={"inputs": "full"}) as server:
        server.ask(images(2))
        server.client("nobody").get("/v1/model")
        server.client("root").post("/v1/admin/accounts/alice/block")
        assert server.ask(images(1)).json()["reason"] == "blocked"
        server.client("root").post("/v1/admin/accounts/alice/unblock")
        assert server.ask(images(1)).status_code == 200
    assert verify(tmp_path / "audit.jsonl")
    found = [(it.kind, it.get("account"), it.get("verdict") or it.get("act")) for it in entries(server.log)]
    assert found == [
        ("opened", None, None),
        ("request", "alice", None),
        ("verdict", "alice", "answered"),
        ("verdict", None, "refused"),
        ("admin", "root", "block"),
        ("verdict", "alice", "refused"),
        ("admin", "root", "unblock"),
        ("request", "alice", None),
        ("verdict", "alice", "answered"),
        ("closed", None, None),
    ]
    text = server.log.read_text()
    assert all(key not in text for key in server.keys.values())


def test_what_is_spent_and_decided_survives_a_restart(tmp_path):
    accounts = {"alice": FREE | {"budget": 10}, "root": {"scopes": ("admin",)}, "bob": FREE}
    with running(tmp_path, accounts=accounts) as server:
        assert server.ask(images(7)).status_code == 200
        server.client("root").post("/v1/admin/accounts/bob/block")
    with running(tmp_path, accounts=accounts) as server:
        assert server.ask(images(4)).status_code == 429
        assert server.ask(images(3)).status_code == 200
        assert server.ask(images(1), "bob").json()["reason"] == "blocked"
        told = server.client("root").get("/v1/admin/accounts").json()
        assert told["alice"]["left"] == 0 and told["bob"]["measures"] == ["block"]
    numbers = [entry["request"] for entry in of_kind(server, "request")]
    assert numbers == [0, 1]


def monitored(*responses, **more):
    return {"monitor": [{"call": "query_rate(threshold=3.0)", "responses": responses}], **more}


def test_an_alarm_blocks_until_an_admin_unblocks(tmp_path):
    alert = tmp_path / "alerts.jsonl"
    page = {"page": {"file": str(alert), "command": ["false"]}}
    accounts = {"alice": FREE, "root": {"scopes": ("admin",)}, "bob": FREE}
    with running(tmp_path, accounts=accounts, **monitored("block", "page", **page)) as server:
        statuses = [server.ask(images(1, i)).status_code for i in range(5)]
        assert statuses == [200, 200, 200, 403, 403]
        assert server.ask(images(1), "bob").status_code == 200
        assert server.client("root").post("/v1/admin/accounts/alice/unblock").json()["measures"] == []
    assert json.loads(alert.read_text())["account"] == "alice"
    (found,) = of_kind(server, "alert")
    assert found["score"] == 4 and found["evidence"]["threshold"] == 3.0
    acts = [(entry["account"], entry["act"], entry["on"]) for entry in of_kind(server, "admin")]
    monitor = [("(monitor)", "block", "alice"), ("(monitor)", "page", "alice")]
    assert sorted(acts) == [*monitor, ("root", "unblock", "alice")]
    assert "command: exit code 1; file: written" in [entry.get("outcome") for entry in of_kind(server, "admin")]


def test_an_alarm_throttles(tmp_path):
    accounts = {"alice": {"rate": 1e-3, "burst": 100}}
    with running(tmp_path, accounts=accounts, **monitored("throttle"), responses={"throttle": 0.05}) as server:
        statuses = [server.ask(images(1, i)).status_code for i in range(20)]
    assert statuses == [200] * 9 + [429] * 11  # 4 until the alarm, 5 of the bucket that is left of 100 * 0.05


def test_a_poisoned_account_gets_wrong_labels_and_others_do_not(tmp_path):
    x, right = images(6), predict(small_model(), images(6))
    with running(tmp_path, accounts={"alice": FREE, "bob": FREE}, **monitored("poison")) as server:
        for i in range(4):
            np.testing.assert_allclose(server.ask(x[i : i + 1]).json()["scores"], right[i : i + 1], atol=1e-6)
        poisoned = np.array(server.ask(x).json()["scores"])
        again = np.array(server.ask(x).json()["scores"])
        np.testing.assert_allclose(server.ask(x, "bob").json()["scores"], right, atol=1e-6)
    assert (poisoned.argmax(-1) != right.argmax(-1)).all()
    np.testing.assert_allclose(np.sort(poisoned), np.sort(right), atol=1e-6)
    np.testing.assert_array_equal(poisoned, again)


def test_a_poisoned_account_may_be_answered_by_another_model(tmp_path):
    other = build_model("mlp([8])", SHAPE, CLASSES, jax.random.key(1))
    table = monitored("poison", responses={"poison": "bit_depth(1)"})
    with running(tmp_path, poisoned=other, **table) as server:
        for i in range(4):
            server.ask(images(1, i))
        said = server.ask(images(5)).json()["scores"]
    np.testing.assert_allclose(said, predict(other, images(5)), atol=1e-6)


@pytest.mark.parametrize(("inputs", "status"), [("full", 403), ("none", 200)])
def test_monitors_remember_what_a_full_log_kept(tmp_path, inputs, status):
    with running(tmp_path, log={"inputs": inputs}, **monitored("block")) as server:
        assert [server.ask(images(1, i)).status_code for i in range(3)] == [200, 200, 200]
    with running(tmp_path, log={"inputs": inputs}, **monitored("block")) as server:
        assert server.ask(images(1, 3)).status_code == status
