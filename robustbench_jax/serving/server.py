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


def serve(service: Service, port: socket.socket) -> None:
    """Serves until a signal ends it. port: see `bound`. UserError where the model cannot be run."""
    found: list[Exception] = []

    def give_up(error: Exception) -> None:
        found.append(error)
        server.should_exit = True

    server = uvicorn.Server(_config(service, give_up))
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets=[port])  # once it is done, uvicorn raises again the signal that ended it
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
    """The port, which nobody else can have now, and on which nothing is accepted yet. UserError where that cannot be.

    port: 0 for any that is free.
    """
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
    except (OSError, OverflowError) as error:
        made.close()
        raise UserError(f"cannot listen on {host}:{port}: {getattr(error, 'strerror', None) or error}") from None
    return made


def url_of(port: socket.socket) -> str:
    host, number = port.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{number}"
