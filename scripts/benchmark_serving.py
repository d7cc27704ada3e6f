"""Serving: requests a second and latencies with N clients at once, beside a bare ASGI echo of the same bodies.

Both run as processes of their own behind the same uvicorn; each client has one connection and asks one image after
another, as .npy. The echo reads the body and sends it back: what no server in Python on this machine can do better.
"""

import argparse
import asyncio
import contextlib
import io
import multiprocessing
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import httpx
import jax
import numpy as np
import uvicorn

from robustbench_jax.bench.workshop import load_trained
from robustbench_jax.data import load_dataset
from robustbench_jax.ops.images import as_unit
from robustbench_jax.serving import policy, server
from robustbench_jax.serving.accounts import Accounts
from robustbench_jax.serving.service import Served, Service

CLIENTS, SECONDS, MODEL = (1, 16, 64), 5.0, "fashion_mnist/clean/standard"
NPY = "application/octet-stream"
FORMS = {
    "together, log durable": ({}, {}),
    "together, log not durable": ({}, {"durable": False}),
    "one by one, log durable": ({"together": False}, {}),
    "one by one, log not durable": ({"together": False}, {"durable": False}),
}


def compare(options: argparse.Namespace) -> None:
    packages = ", ".join(f"{name} {version(name)}" for name in ("starlette", "uvicorn", "uvloop", "h11"))
    x = as_unit(load_dataset("fashion_mnist_mini", limit=1).x)
    file = io.BytesIO()
    np.save(file, x)
    print(
        f"{MODEL}, one image a request ({len(file.getvalue())} bytes); {packages}; {SECONDS:g} s each, median of "
        f"{options.repeats}\n| server | clients | requests/s | p50, ms | p95, ms | p99, ms |\n| --- |" + " ---: |" * 5
    )
    with contextlib.ExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory())
        key = Accounts.load(Path(place, "accounts.json"), new=True).add("me", rate=1e9, burst=10**9)
        urls = {"bare echo": stack.enter_context(process(echo))}
        for number, (name, tables) in enumerate(FORMS.items()):
            urls[name] = stack.enter_context(process(served, place, f"{number}.jsonl", *tables))
        for clients in CLIENTS:
            turns = {name: [] for name in urls}
            for _ in range(options.repeats):  # they take turns
                for name, url in urls.items():
                    turns[name].append(asyncio.run(load(url, key, file.getvalue(), clients)))
            for name, found in turns.items():
                median = np.median(found, axis=0)
                print(
                    f"| {name} | {clients} | {median[0]:,.0f} | " + " | ".join(f"{ms:.1f}" for ms in median[1:]) + " |"
                )
                sys.stdout.flush()


async def load(url: str, key: str, body: bytes, clients: int) -> tuple[float, ...]:
    """(requests a second, and the 50th, 95th and 99th percentiles of the milliseconds that one takes)."""
    headers = {"authorization": f"Bearer {key}", "content-type": NPY, "accept": NPY}
    taken, end = [], time.perf_counter() + SECONDS

    async def ask(connection) -> None:
        while (began := time.perf_counter()) < end:
            await exchanged(*connection, request)
            taken.append(1000 * (time.perf_counter() - began))

    host, port = httpx.URL(url).host, httpx.URL(url).port
    head = f"POST /v1/predict HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(body)}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = head.encode() + b"\r\n" + body
    connections = [await asyncio.open_connection(host, port) for _ in range(clients)]
    began = time.perf_counter()
    await asyncio.gather(*map(ask, connections))
    seconds = time.perf_counter() - began
    for _, writer in connections:
        writer.close()
    return len(taken) / seconds, *np.percentile(taken, [50, 95, 99])


async def exchanged(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bytes:
    """One request and its answer: no client library, whose time would count as the server's."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(head.decode())
    length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    return await reader.readexactly(int(length.split(b":")[1]))


@contextlib.contextmanager
def process(target, *arguments):
    """The URL of a server in a process of its own, once it is ready."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=target, args=(theirs, *arguments))
    child.start()
    url = ours.recv()
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/readyz").status_code == 200:
                break
        time.sleep(0.1)
    try:
        yield url
    finally:
        child.terminate()
        child.join()


def echo(pipe) -> None:
    async def app(scope, receive, send):
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        length = (b"content-length", str(len(body)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": body})

    port = server.bound("127.0.0.1", 0)
    pipe.send(server.url_of(port))
    config = uvicorn.Config(app, http="h11", lifespan="off", log_level="error", access_log=False)
    uvicorn.Server(config).run(sockets=[port])


def served(pipe, place: str, log: str, batching: dict, more: dict) -> None:
    rules = policy.parsed(
        {"accounts": f"{place}/accounts.json", "log": {"path": f"{place}/{log}"} | more, "batching": batching}
    )
    jax.config.update("jax_num_cpu_devices", 1)
    model, about = load_trained(MODEL)
    service = Service(rules, Served(model, MODEL, tuple(about["shape"]), about["classes"], "00"))
    port = server.bound("127.0.0.1", 0)
    pipe.send(server.url_of(port))
    server.serve(service, port)
