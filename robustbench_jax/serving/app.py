"""The ASGI application around a Service.

    GET  /healthz  /readyz         for everybody: it runs; it answers
    GET  /metrics                  Prometheus; scope "metrics", unless the policy makes it public
    GET  /v1/model                 scope "predict": what is served, and the limits of a request
    POST /v1/predict               scope "predict": JSON or .npy (serving/bodies.py)
    GET  /v1/openapi.json          scope "predict": all of this as OpenAPI (serving/openapi.py)
    GET  /v1/admin/accounts        scope "admin": what each has spent and what is in force against it
    POST /v1/admin/accounts/NAME/block | throttle | poison | unblock | disable

Answers are JSON, {"scores": [[...]]}, {"probabilities": [[...]]} or {"labels": [...]}, or .npy for clients that accept
application/octet-stream. Every refusal is a problem (serving/problems.py) and an entry of the log.
"""

import asyncio
import io
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import numpy as np
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from robustbench_jax.serving import bodies, openapi, problems
from robustbench_jax.serving.accounts import Account
from robustbench_jax.serving.incident import VERDICT
from robustbench_jax.serving.problems import Problem
from robustbench_jax.serving.service import ACTS, Service
from robustbench_jax.types import UserError

LARGE = 65_536  # bytes from which on a body is decoded beside the event loop
Handler = Callable[[Request, Account], Awaitable[Response]]


def application(service: Service, give_up: Callable[[Exception], None] = lambda error: None) -> Starlette:
    """give_up: told where the model cannot be made ready."""

    @asynccontextmanager
    async def lifespan(app: Starlette):
        service.start()
        warming = asyncio.create_task(_warm(service, give_up))
        yield
        await warming
        await service.stop()

    api = _Api(service)
    metrics = api.metrics if service.policy.metrics.public else api.guarded("metrics", api.metrics)
    routes = [
        Route("/healthz", api.health),
        Route("/readyz", api.ready),
        Route("/metrics", metrics),
        Route("/v1/model", api.guarded("predict", api.model)),
        Route("/v1/openapi.json", api.guarded("predict", api.openapi)),
        Route("/v1/predict", api.guarded("predict", api.predict), methods=["POST"]),
        Route("/v1/admin/accounts", api.guarded("admin", api.accounts)),
        Route("/v1/admin/accounts/{name}/{act}", api.guarded("admin", api.act), methods=["POST"]),
    ]
    handlers = {HTTPException: problems.of_the_framework, Exception: problems.of_ours}
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)


async def _warm(service: Service, give_up: Callable[[Exception], None]) -> None:
    try:
        await asyncio.to_thread(service.warm)
    except Exception as error:
        service.failure = "the model cannot be run"
        give_up(error)


class _Api:
    def __init__(self, service: Service):
        self.service = service

    def guarded(self, scope: str, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """For accounts with the scope. Refusals are logged and answered; what takes long is measured."""

        async def run(request: Request) -> Response:
            began, account = time.perf_counter(), None
            try:
                account = self._owner(request)
                response = await handler(request, self.service.admit(account, scope))
            except Problem as problem:
                response = await self._refused(request, account, problem)
            except ClientDisconnect:
                response = await self._refused(request, account, Problem(400, "gone", "the client went away"))
            seconds = time.perf_counter() - began
            self.service.gauges.request(handler.__name__, response.status_code, seconds)
            return response

        return run

    async def health(self, request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def ready(self, request: Request) -> Response:
        why = self.service.failure
        return PlainTextResponse(f"not ready: {why}\n", 503) if why else PlainTextResponse("ready\n")

    async def metrics(self, request: Request, account: Account | None = None) -> Response:
        return Response(self.service.gauges.page(), media_type=CONTENT_TYPE_LATEST)

    async def model(self, request: Request, account: Account) -> Response:
        served, policy = self.service.served, self.service.policy
        return JSONResponse(
            {
                "model": served.name,
                "identity": served.identity,
                "shape": list(served.shape),
                "classes": served.classes,
                "answers": policy.answers,
                "rejects": served.model.rejects,
                "stochastic": served.model.stochastic,
                "images": policy.limits.images,
                "body": policy.limits.body,
                "left": self.service.limits.left(account),
            }
        )

    async def openapi(self, request: Request, account: Account) -> Response:
        return JSONResponse(openapi.description(self.service))

    async def predict(self, request: Request, account: Account) -> Response:
        limits, kind = self.service.policy.limits, bodies.kind_of(request)
        body = await bodies.read(request, limits.body, limits.body_seconds)
        decode = (bodies.images, kind, body, self.service.served.shape, limits.images)
        x = await asyncio.to_thread(*decode) if len(body) > LARGE else decode[0](*decode[1:])
        answer = await self.service.predict(account, x, request.client.host if request.client else "")
        if bodies.NPY in request.headers.get("accept", ""):
            return Response(as_npy(answer), media_type=bodies.NPY)
        return JSONResponse({self.service.policy.answers: answer.tolist()})

    async def accounts(self, request: Request, account: Account) -> Response:
        service = self.service
        return JSONResponse(
            {
                each.name: {
                    "scopes": list(each.scopes),
                    "active": each.active(),
                    "spent": service.limits.spent[each.name],
                    "left": service.limits.left(each),
                    "measures": sorted(service.standing[each.name]),
                }
                for each in service.accounts
            }
        )

    async def act(self, request: Request, account: Account) -> Response:
        name, act = request.path_params["name"], request.path_params["act"]
        if act not in ACTS:
            raise Problem(404, "act", f"no act {act[:40]!r}; there are: {', '.join(ACTS)}")
        await self.service.act(account, act, name)
        return JSONResponse({"account": name, "measures": sorted(self.service.standing[name])})

    def _owner(self, request: Request) -> Account | None:
        """Whose key it is, active or not. Problem 503 where the file of accounts is no good now."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        try:
            self.service.accounts.refresh()
        except UserError as error:
            raise Problem(503, "accounts", "the accounts cannot be read; the operator has been told") from error
        return self.service.accounts.owner(token.strip()) if scheme.lower() == "bearer" else None

    async def _refused(self, request: Request, account: Account | None, problem: Problem) -> Response:
        who, client = account.name if account else None, request.client.host if request.client else ""
        about = {"status": problem.status, "reason": problem.reason, "detail": problem.detail}
        asked = {"path": request.url.path[:200], "method": request.method[:20], "client": client}
        with suppress(Problem):  # a log that takes nothing changes no refusal
            await self.service.keep([(VERDICT, {"account": who, "verdict": "refused", **about, **asked})])
        return problem.response()


def as_npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()
