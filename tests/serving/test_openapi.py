"""The description of the service says what it takes and answers: every path, every status, every member of a body."""

import re

import pytest

from robustbench_jax.serving import app, openapi
from tests.serving.running import FREE, NPY, images, npy, running

ACCOUNTS = {
    "alice": FREE,
    "root": FREE | {"scopes": ("admin",)},
    "watcher": FREE | {"scopes": ("metrics",)},
    "slow": {"rate": 0.01, "burst": 1},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("server"), accounts=ACCOUNTS) as found:
        yield found


def fits(value, schema, document):
    """Whether a value is what a schema says, of the words that the document uses."""
    if "$ref" in schema:
        return fits(value, document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], document)
    if "anyOf" in schema:
        return any(fits(value, it, document) for it in schema["anyOf"])
    if "enum" in schema:
        return value in schema["enum"]
    types = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict}
    named = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not any(value is None if name == "null" else isinstance(value, types[name]) for name in named):
        return False
    if isinstance(value, list):
        in_range = schema["minItems"] <= len(value) <= schema.get("maxItems", len(value))
        return in_range and all(fits(it, schema["items"], document) for it in value)
    if isinstance(value, dict):
        known, more = schema.get("properties", {}), schema.get("additionalProperties", {})
        if not set(schema.get("required", ())) <= set(value) or (more is False and not set(value) <= set(known)):
            return False
        open_to = more if isinstance(more, dict) and more else None
        return all(
            fits(it, known[name], document) if name in known else open_to is None or fits(it, open_to, document)
            for name, it in value.items()
        )
    return value >= schema.get("minimum", value) if isinstance(value, int | float) else True


def test_every_path_and_method_of_the_application_is_described(server):
    document = openapi.description(server.service)
    routes = {route.path: route.methods - {"HEAD"} for route in app.application(server.service).routes}
    assert routes == {
        path: {method.upper() for method in it if method != "parameters"} for path, it in document["paths"].items()
    }
    listed = dict(re.findall(r"(/\S+?)[| ].*?(scope \"\w+\"|for everybody)", app.__doc__))
    assert {path for path in listed if "NAME" not in path} <= set(document["paths"])


ASKED = [
    ("alice", "GET", "/v1/model", {}, 200),
    ("alice", "GET", "/v1/openapi.json", {}, 200),
    ("alice", "POST", "/v1/predict", {"json": {"images": images(2).tolist()}}, 200),
    ("alice", "POST", "/v1/predict", {"json": {"images": images(1)[0].tolist(), "dtype": "float32"}}, 200),
    ("alice", "POST", "/v1/predict", {"json": {"images": [1, 2]}}, 422),
    ("alice", "POST", "/v1/predict", {"content": b"x", "headers": {"content-type": "text/plain"}}, 415),
    ("alice", "POST", "/v1/predict", {"content": npy(images(300)), "headers": {"content-type": NPY}}, 413),
    ("nobody", "POST", "/v1/predict", {"json": {"images": images(1).tolist()}}, 401),
    ("watcher", "POST", "/v1/predict", {"json": {"images": images(1).tolist()}}, 403),
    ("slow", "GET", "/v1/model", {}, 200),
    ("slow", "GET", "/v1/model", {}, 429),
    ("root", "GET", "/v1/admin/accounts", {}, 200),
    ("root", "POST", "/v1/admin/accounts/slow/throttle", {}, 200),
    ("root", "POST", "/v1/admin/accounts/nobody/throttle", {}, 404),
    ("root", "POST", "/v1/admin/accounts/slow/trottle", {}, 404),
    ("alice", "GET", "/metrics", {}, 403),
]


def test_what_is_answered_is_what_is_described(server):
    """And what is taken or refused is what the schema of the body says."""
    document = server.client("alice").get("/v1/openapi.json").json()
    assert document == openapi.description(server.service)
    for account, method, path, more, status in ASKED:
        response = server.client(account).request(method, path, **more)
        assert response.status_code == status, (path, response.text)
        described = re.sub(r"(accounts)/\w+/\w+", r"\1/{name}/{act}", path)
        operation = document["paths"][described][method.lower()]
        kind = response.headers["content-type"].split(";")[0]
        answer = operation["responses"][str(status)]["content"][kind]["schema"]
        assert fits(response.json(), answer, document), (path, response.text)
        if "json" in more and status in (200, 422):
            taken = operation["requestBody"]["content"]["application/json"]["schema"]
            assert fits(more["json"], taken, document) == (status == 200), path


def test_what_everybody_may_ask_asks_for_no_key(server):
    paths = openapi.description(server.service)["paths"]
    assert [path for path, it in paths.items() if it.get("get", {}).get("security") == []] == ["/healthz", "/readyz"]
    for path in ("/healthz", "/readyz"):
        assert server.client("nobody").get(path).headers["content-type"].startswith("text/plain")
