"""Refusals: what a client is told, as JSON in the form of RFC 9457 with one clear line.

    {"title": "Too Many Requests", "status": 429, "reason": "rate", "detail": "...", "retry_after": 0.4}

`reason` is for programs: key, scope, blocked, rate, budget, size, type, input, busy, ... `retry_after` has fractions of
a second, which the header Retry-After does not.
"""

import math
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import JSONResponse

MEDIA = "application/problem+json"


class Problem(Exception):
    """retry_after: seconds after which the same request may be answered; None where it will not be. more: members that
    the body has besides.
    """

    def __init__(self, status: int, reason: str, detail: str, *, retry_after: float | None = None, **more: object):
        super().__init__(detail)
        self.status, self.reason, self.detail, self.retry_after, self.more = status, reason, detail, retry_after, more

    def response(self) -> JSONResponse:
        body = {"title": _title(self.status), "status": self.status, "reason": self.reason, "detail": self.detail}
        headers = {}
        if self.retry_after is not None:
            body["retry_after"] = round(self.retry_after, 3)
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after)))
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        if self.status in (408, 413):
            headers["connection"] = "close"  # the rest of the body is not waited for
        return JSONResponse(body | self.more, self.status, headers, MEDIA)


async def of_the_framework(request: Request, error: Exception) -> JSONResponse:
    """What Starlette refuses by itself: no such path, no such method."""
    status = getattr(error, "status_code", 500)
    said = {404: f"there is no {request.url.path[:80]!r}", 405: f"{request.method[:20]} is not for this path"}
    response = Problem(status, "path", said.get(status, _title(status))).response()
    response.headers.update(getattr(error, "headers", None) or {})
    return response


async def of_ours(request: Request, error: Exception) -> JSONResponse:
    """What nobody expected: the client learns nothing of it, the operator has the traceback."""
    return Problem(500, "failure", "the server failed; the operator has been told").response()


def _title(status: int) -> str:
    return HTTPStatus(status).phrase
