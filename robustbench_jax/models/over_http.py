"""http("http://127.0.0.1:8000", key="env:MY_KEY"): a model that answers over HTTP, as an attacker has it.

It is asked from inside compiled programs, a batch at a time (`jax.pure_callback`), and has no gradient: attacks that
see scores or labels run on it as on any other model. A server that gives labels alone has one-hot logits, one that
gives probabilities their logarithms.
Shapes: B images, D = [H, W, C] input shape, C classes.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.models import files
from robustbench_jax.models.http_connection import Connection
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, UserError, record


@register("pretrained", "http", late=("answers", "patience"))
@record
class Http:
    """url: of the server, without a path. key: "env:NAME" or "file:PATH", where its key is to be found; the key itself
    would stand in every record. answers: a file that keeps what was answered, so that a run that a spent budget ended
    goes on where it ended, for nothing. patience: seconds that one request waits, in all, where it is told to.
    """

    url: str
    key: str = ""
    answers: str | None = None
    patience: float = 60.0

    def __post_init__(self):
        if self.key and not self.key.startswith(("env:", "file:")):
            raise UserError('http: a key in a call string would stand in records; write key="env:NAME" or "file:PATH"')
        if not self.url.startswith(("http://", "https://")) or "@" in self.url:
            raise UserError("http: url must be http://HOST:PORT or https://HOST, without a name or password in it")
        if not 0 <= self.patience < math.inf:
            raise UserError(f"http: patience = {self.patience} must be a number of seconds from 0")

    def load(self) -> tuple[Classifier, dict]:
        """Asks the server what it serves. UserError where it does not say."""
        connection = Connection(self.url.rstrip("/"), _secret(self.key), self.answers, self.patience)
        about = connection.about
        net = OverHttp(self.url, self.key, about.identity, about.shape, about.width, about.rejects)
        _connections[net] = connection
        classifier = Classifier(net, {"identity": jnp.asarray(np.frombuffer(bytes.fromhex(about.identity), np.uint8))})
        return classifier, files.describe(classifier, "http", about.shape, about.classes, answers=about.answers)


@dataclass(frozen=True)
class OverHttp:
    """x [D] -> logits [width], asked of a server. remote: see Classifier."""

    url: str
    key: str
    identity: str
    shape: tuple[int, ...]
    width: int
    rejects: bool
    remote = True

    def __call__(self, params: Any, x: jax.Array) -> jax.Array:
        if x.shape != self.shape:
            raise UserError(f"{self.url} takes images of shape {list(self.shape)}; got {list(x.shape)}")
        said = jax.ShapeDtypeStruct((self.width,), np.float32)
        return jax.pure_callback(self.ask, said, x.astype(jnp.float32), vmap_method="expand_dims")

    def ask(self, x: np.ndarray) -> np.ndarray:
        """Logits [..., width] of images [..., D]. NumPy alone: a compiled program waits for it."""
        x = np.asarray(x, np.float32)
        return _connections[self].ask(x.reshape(-1, *self.shape)).reshape(*x.shape[: -len(self.shape)], self.width)


_connections: dict[OverHttp, Connection] = {}


@contextmanager
def told() -> Iterator[None]:
    """Says why a server did not answer, which the compiled program that asked it could not."""
    for connection in _connections.values():
        connection.trouble = None
    try:
        yield
    except Exception as error:
        for connection in _connections.values():
            if connection.trouble is not None:
                raise UserError(str(connection.trouble)) from error
        raise


def _secret(where: str) -> str:
    """The key that lies there. UserError where none does."""
    kind, _, name = where.partition(":")
    if not where:
        return ""
    try:
        found = os.environ.get(name, "") if kind == "env" else Path(name).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"http: cannot read the key from {name}: {getattr(error, 'strerror', 'no text')}") from None
    if not (found := found.strip()):
        raise UserError(f"http: there is no key in {'the environment variable ' if kind == 'env' else ''}{name}")
    if not (found.isascii() and found.isprintable()):
        raise UserError(f"http: what is in {name} is no key")
    return found
