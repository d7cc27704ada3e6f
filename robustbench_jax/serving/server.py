"""The server: a Service behind uvicorn, until a signal ends it.

SIGTERM and SIGINT end it gracefully: it accepts nothing more, answers what it has accepted, closes the log.
"""

import signal
import socket
from collections.abc import Callable

import uvicorn

from robustbench_jax.serving.app import application
from robustbench_jax.serving.service import Service
from robustbench_jax.types import UserError

GRACE = 30  # seconds that requests have to be finished


def serve(service: Service, host: str, port: int, began: Callable[[str], None] = lambda url: None) -> None:
    """Serves until a signal ends it. port: 0 for any that is free. began: told the URL once the port is open.

    UserError where the port cannot be had, and where the model cannot be run.
    """
    found: list[Exception] = []

    def give_up(error: Exception) -> None:
        found.append(error)
        server.should_exit = True

    server = uvicorn.Server(_config(service, give_up))
    listening = bound(host, port)
    began(f"http://{_shown(host)}:{listening.getsockname()[1]}")
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets=[listening])  # once it is done, uvicorn raises again the signal that ended it
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if found:
        raise UserError(f"the model cannot be served: {' '.join(str(found[0]).split())[:300]}") from found[0]


def _config(service: Service, give_up: Callable[[Exception], None]) -> uvicorn.Config:
    return uvicorn.Config(
        application(service, give_up),
        http="h11",
        ws="none",
        log_level="error",
        access_log=False,
        server_header=False,
        limit_concurrency=service.policy.limits.connections,
        timeout_graceful_shutdown=GRACE,
    )


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens. UserError where it cannot."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise UserError(f"cannot listen on {host}:{port}: {getattr(error, 'strerror', None) or error}") from None


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
