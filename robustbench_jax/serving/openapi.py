"""What the service takes and answers, as an OpenAPI 3.1 description: for clients that are generated, and for fuzzers.

Reference: OpenAPI Specification 3.1, https://spec.openapis.org/oas/v3.1.0. Shapes and limits are those of the service.
"""

from typing import Any

from robustbench_jax.serving.bodies import JSON, NPY
from robustbench_jax.serving.problems import MEDIA
from robustbench_jax.serving.service import ACTS, Service

Schema = dict[str, Any]
REFUSED = {  # of every path that asks for a key
    "401": "no known key, or one that is disabled or expired",
    "403": "the account lacks the scope, or is blocked",
    "503": "the server is busy, not ready, or cannot keep its log",
}
OF_PREDICTIONS = REFUSED | {
    "400": "the client went away",
    "408": "the body took too long",
    "413": "the body, or the number of images, is too large",
    "415": "the body is of a type that is not read",
    "422": "the images are not what the model takes",
    "429": "too fast, or the budget of queries is spent",
    "500": "the model has no finite answer",
}


def description(service: Service) -> Schema:
    """The document."""
    policy = service.policy
    metrics = {"get": _operation("Prometheus metrics", _text(), {} if policy.metrics.public else REFUSED)}
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    act = {"name": "act", "in": "path", "required": True, "schema": {"enum": list(ACTS)}}
    acted = _operation("Act on an account", _json(_object(account=_STRING, measures=_list(_STRING))), _OF_ACTS)
    return {
        "openapi": "3.1.0",
        "info": {"title": service.served.name, "version": "1"},
        "paths": {
            "/healthz": {"get": _operation("Whether it runs", _text(), {})},
            "/readyz": {"get": _operation("Whether it answers", _text(), {"503": "not yet, or no more"}, _text())},
            "/metrics": metrics,
            "/v1/model": {"get": _operation("What is served", _json(_model()), OF_READING)},
            "/v1/predict": {"post": _predict(service)},
            "/v1/openapi.json": {"get": _operation("This document", _json({"type": "object"}), OF_READING)},
            "/v1/admin/accounts": {"get": _operation("All accounts", _json(_accounts()), REFUSED)},
            "/v1/admin/accounts/{name}/{act}": {"parameters": [name, act], "post": acted},
        },
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Problem": _problem()},
        },
        "security": [{"key": []}],
    }


_STRING, _COUNT = {"type": "string"}, {"type": "integer", "minimum": 0}
_LEFT = {"type": ["integer", "null"]}
_OF_ACTS = REFUSED | {"404": "there is no such account, or no such act"}
OF_READING = REFUSED | {"429": "too fast"}


def _predict(service: Service) -> Schema:
    shape, most = service.served.shape, service.policy.limits.images
    image: Schema = {"type": "number"}
    for side in reversed(shape):
        image = _list(image, side, side)
    images = {"anyOf": [image, _list(image, 1, most)]}
    taken = {"type": "object", "properties": {"images": images, "dtype": {"enum": ["float32", "uint8"]}}}
    taken |= {"required": ["images"], "additionalProperties": False}
    kinds = {JSON: {"schema": taken}, NPY: {"schema": {"type": "string", "format": "binary"}}}
    operation = _operation("Predictions for one image or several", _json(_answers(service)), OF_PREDICTIONS)
    operation["responses"]["200"]["content"][NPY] = {"schema": {"type": "string", "format": "binary"}}
    return operation | {"requestBody": {"required": True, "content": kinds}}


def _answers(service: Service) -> Schema:
    kind = service.policy.answers
    classes = service.served.classes + service.served.model.rejects
    row = {"type": "integer", "minimum": -1} if kind == "labels" else _list({"type": "number"}, classes, classes)
    return _object(**{kind: _list(row, 1)})


def _model() -> Schema:
    named = {name: _STRING for name in ("model", "identity")} | {"shape": _list(_COUNT), "classes": _COUNT}
    named |= {"answers": {"enum": ["scores", "probabilities", "labels"]}}
    named |= {name: {"type": "boolean"} for name in ("rejects", "stochastic")}
    return _object(**named, images=_COUNT, body=_COUNT, left=_LEFT)


def _accounts() -> Schema:
    one = _object(scopes=_list(_STRING), active={"type": "boolean"}, spent=_COUNT, left=_LEFT, measures=_list(_STRING))
    return {"type": "object", "additionalProperties": one}


def _problem() -> Schema:
    named = {"title": _STRING, "status": _COUNT, "reason": _STRING, "detail": _STRING}
    return _object(**named) | {"properties": named | {"retry_after": {"type": "number"}}, "additionalProperties": True}


def _operation(what: str, answer: Schema, refused: dict[str, str], refusal: Schema | None = None) -> Schema:
    problem = {"content": {MEDIA: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    responses = {status: {"description": why, **(refusal or problem)} for status, why in refused.items()}
    open_to_all = {"security": []} if not refused or refusal else {}
    return {"summary": what, "responses": {"200": {"description": "so it is", **answer}, **responses}, **open_to_all}


def _json(schema: Schema) -> Schema:
    return {"content": {JSON: {"schema": schema}}}


def _text() -> Schema:
    return {"content": {"text/plain": {"schema": _STRING}}}


def _object(**named: Schema) -> Schema:
    return {"type": "object", "properties": named, "required": list(named)}


def _list(of: Schema, least: int = 0, most: int | None = None) -> Schema:
    return {"type": "array", "items": of, "minItems": least} | ({} if most is None else {"maxItems": most})
