"""A real server on a free port in a thread of this process, with a small model and accounts, and clients for it."""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import jax
import numpy as np
import uvicorn

from robustbench_jax.models import build_model
from robustbench_jax.registry import build
from robustbench_jax.serving import policy, server
from robustbench_jax.serving.accounts import Accounts
from robustbench_jax.serving.service import Served, Service
from robustbench_jax.traffic import Watch

SHAPE, CLASSES = (4, 4, 1), 3
NPY = "application/octet-stream"
FREE = {"rate": 1e6, "burst": 10**6}  # limits that no test meets


def small_model():
    return build_model("mlp([8])", SHAPE, CLASSES, jax.random.key(0))


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, *SHAPE), np.float32)


def npy(x: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, x)
    return file.getvalue()


@dataclass
class Running:
    url: str
    service: Service
    log: Path
    keys: dict[str, str]
    clients: dict[str, httpx.Client] = field(default_factory=dict)

    def client(self, account: str = "alice") -> httpx.Client:
        """Of an account, or of whoever has the key that is given in its place."""
        if account not in self.clients:
            headers = {"authorization": f"Bearer {self.keys.get(account, account)}"}
            self.clients[account] = httpx.Client(base_url=self.url, headers=headers, timeout=20)
        return self.clients[account]

    def ask(self, x: np.ndarray, account: str = "alice") -> httpx.Response:
        return self.client(account).post("/v1/predict", content=npy(x), headers={"content-type": NPY})


@contextmanager
def running(
    place: Path, model=None, accounts: dict | None = None, poisoned=None, shape=SHAPE, classes=CLASSES, **tables
) -> Iterator[Running]:
    """place: where accounts and log are, and may be already. tables: of the policy."""
    place.mkdir(parents=True, exist_ok=True)
    file, keys = place / "accounts.json", {}
    for name, limits in (accounts if accounts is not None else {"alice": FREE}).items():
        held = place / f"{name}.key"
        if not held.exists():
            held.write_text(Accounts.load(file, new=True).add(name, **limits))
        keys[name] = held.read_text()
    log = {"path": str(place / "audit.jsonl"), "durable": False} | tables.pop("log", {})
    rules = policy.parsed({"accounts": str(file), "log": log} | tables)
    watch = Watch({it.call: build("monitor", it.call) for it in rules.monitor}) if rules.monitor else None
    what = Served(model or small_model(), "small", shape, classes, "ab" * 32)
    service = Service(rules, what, watch, poisoned)
    listening = server.bound("127.0.0.1", 0)
    made = uvicorn.Server(server._config(service, lambda error: None))
    thread = threading.Thread(target=made.run, kwargs={"sockets": [listening]})
    thread.start()
    found = Running(server.url_of(listening), service, place / "audit.jsonl", keys)
    try:
        wait_until_ready(found.url)
        yield found
    finally:
        for client in found.clients.values():
            client.close()
        made.should_exit = True
        thread.join(30)
        listening.close()
    assert not thread.is_alive()


def wait_until_ready(url: str, seconds: float = 60) -> None:
    with httpx.Client(timeout=20) as client:
        for _ in range(int(seconds * 20)):
            with suppress(httpx.ConnectError):
                if client.get(f"{url}/readyz").status_code == 200:
                    return
            threading.Event().wait(0.05)
    raise AssertionError("the server did not become ready")
