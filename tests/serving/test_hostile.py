"""Hostile requests to a real server: whatever is sent, it refuses, it never fails, it never hangs, it goes on."""

import json
import socket
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robustbench_jax.serving.audit_log import verify
from tests.serving.running import NPY, images, npy, running

JSON = "application/json"
PATHS = ("/v1/predict", "/v1/model", "/v1/admin/accounts", "/v1/admin/accounts/x/block", "/metrics", "/readyz", "/no")
HEADERS = ("authorization", "content-type", "content-length", "content-encoding", "accept", "transfer-encoding", "x")
TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=40)
FEW = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**400), 10**400) | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=30,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("hostile"), limits={"body": 5000, "body_seconds": 0.2}) as found:
        yield found
    assert verify(found.log)


@pytest.fixture
def still_answers(server):
    yield
    assert server.ask(images(1)).status_code == 200


def exchanged(server, request: bytes) -> bytes:
    """What comes back for these bytes, until the server closes the connection; it must, in ten seconds."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as raw:
        found = b""
        with suppress(ConnectionResetError, BrokenPipeError):  # it need not read all of it
            raw.sendall(request)
            with suppress(OSError):  # it may have closed the connection already
                raw.shutdown(socket.SHUT_WR)
            while part := raw.recv(65536):
                found += part
    return found


def refused(status: int) -> bool:
    return status < 500 or status == 503


@FEW
@given(body=st.binary(max_size=6000), kind=st.sampled_from([JSON, NPY, "text/plain"]))
def test_any_body(server, still_answers, body, kind):
    response = server.client().post("/v1/predict", content=body, headers={"content-type": kind})
    assert response.status_code in (413, 415, 422)


@FEW
@given(tree=TREES, dtype=st.sampled_from(["float32", "uint8", "object"]))
def test_any_json_with_numbers_that_are_none(server, still_answers, tree, dtype):
    body = json.dumps({"images": tree, "dtype": dtype})  # NaN and Infinity as Python writes them
    response = server.client().post("/v1/predict", content=body, headers={"content-type": JSON})
    assert response.status_code in (413, 422)


@FEW
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "HEAD", "OPTIONS", "X"]),
    path=st.sampled_from(PATHS) | st.binary(max_size=30).map(lambda raw: "/" + raw.hex()),
    headers=st.lists(st.tuples(st.sampled_from(HEADERS), TEXT), max_size=5),
    keyed=st.booleans(),
    body=st.binary(max_size=200),
)
def test_any_headers(server, still_answers, method, path, headers, keyed, body):
    lines = [f"{method} {path} HTTP/1.1", "host: x", "connection: close"]
    lines += [f"{name}: {value}" for name, value in headers]
    lines += [f"authorization: Bearer {server.keys['alice']}"] * keyed
    said = exchanged(server, "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
    if said:
        assert refused(int(said.split(b" ", 2)[1]))


@FEW
@given(junk=st.binary(max_size=300))
def test_any_bytes_in_the_place_of_http(server, still_answers, junk):
    said = exchanged(server, junk)
    assert not said or refused(int(said.split(b" ", 2)[1]))


def test_broken_chunks_and_bodies_that_end_early(server, still_answers):
    key = f"authorization: Bearer {server.keys['alice']}"
    head = f"POST /v1/predict HTTP/1.1\r\nhost: x\r\n{key}\r\ncontent-type: {NPY}\r\n"
    for rest in (
        "transfer-encoding: chunked\r\n\r\nzz\r\nabc",
        "transfer-encoding: chunked\r\n\r\nffffffffffffffffffff\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\nabc",
        "content-length: 3\r\ncontent-length: 4\r\n\r\nabc",
        "content-length: -1\r\n\r\n",
        "content-length: 99999999999999999999999\r\n\r\nabc",
        "content-length: 50\r\n\r\nabc",
    ):
        said = exchanged(server, (head + rest).encode())
        assert not said or 400 <= int(said.split(b" ", 2)[1]) < 500


def test_a_head_without_end_is_given_up(server, still_answers):
    said = exchanged(server, b"GET /v1/model HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 200_000)
    assert b" 400 " in said or not said


def test_a_good_array_with_more_behind_it_is_refused(server, still_answers):
    response = server.client().post("/v1/predict", content=npy(images(1)) + b"\0", headers={"content-type": NPY})
    assert response.status_code == 422
