"""The server as a process: killed, it has lost nothing that it answered; asked to stop, it answers what it accepted."""

import os
import re
import signal
import subprocess
import sys
import threading
import time

import httpx
import jax
import numpy as np
import pytest

from robustbench_jax.bench.workshop import load_trained, protect
from robustbench_jax.cli import main
from robustbench_jax.cli.serve import Unnamed
from robustbench_jax.models import build_model, files
from robustbench_jax.serving.accounts import Accounts
from robustbench_jax.serving.audit_log import verify
from robustbench_jax.serving.chain import entries
from tests.serving.running import CLASSES, FREE, NPY, SHAPE, images, npy, wait_until_ready

BUDGET = 4000


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("process")
    model = build_model("mlp([8])", SHAPE, CLASSES, jax.random.key(0))
    files.save(root / "model", model, files.describe(model, "mlp([8])", SHAPE, CLASSES))
    (root / "policy.toml").write_text(
        'accounts = "accounts.json"\n[log]\npath = "audit.jsonl"\n[batching]\nwidth = 8\nwait_ms = 5.0\n'
    )
    token = Accounts.load(root / "accounts.json", new=True).add("alice", **FREE, budget=BUDGET)
    (root / "key").write_text(token)
    return root


def started(place):
    command = [sys.executable, "-m", "robustbench_jax.cli", "serve", "--policy", str(place / "policy.toml")]
    command += ["--model", f'checkpoint("{place}/model")', "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
    url = re.search(r"http://\S+?:\d+", process.stderr.readline())[0]
    wait_until_ready(url)
    return process, url


def asking(place, url, answered: list, threads: int = 4) -> list[threading.Thread]:
    """Clients that ask until the server is gone."""
    headers = {"authorization": f"Bearer {(place / 'key').read_text()}", "content-type": NPY}

    def work(number: int) -> None:
        with httpx.Client(base_url=url, headers=headers, timeout=20) as client:
            for i in range(10_000):
                try:
                    response = client.post("/v1/predict", content=npy(images(1, number * 10_000 + i)))
                except httpx.HTTPError:
                    return
                answered.append(response.status_code)

    made = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for thread in made:
        thread.start()
    return made


@pytest.mark.slow
def test_a_killed_server_has_lost_nothing_that_it_answered_and_a_stopped_one_answers_all(place):
    answered = []
    for ending in (signal.SIGKILL, signal.SIGTERM):
        process, url = started(place)
        before = len(answered)
        threads = asking(place, url, answered)
        while len(answered) < before + 60:
            time.sleep(0.01)
        process.send_signal(ending)
        for thread in threads:
            thread.join(30)
        assert process.wait(30) == (-signal.SIGKILL if ending == signal.SIGKILL else 0)
        spent = sum(entry["images"] for entry in entries(place / "audit.jsonl") if entry.kind == "request")
        lost = 4 if ending == signal.SIGKILL else 0  # answers that were logged and not sent any more, one a client
        assert set(answered) == {200} and len(answered) <= spent <= len(answered) + 4 + lost
        assert verify(place / "audit.jsonl") or ending == signal.SIGKILL  # the torn end is cut when it is opened
    process, url = started(place)
    key = {"authorization": f"Bearer {(place / 'key').read_text()}"}
    assert httpx.get(f"{url}/v1/model", headers=key).json()["left"] == BUDGET - spent
    process.terminate()
    assert process.wait(30) == 0
    assert verify(place / "audit.jsonl")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "mlp"], "is an architecture without weights"),
        (["--model-defence", "jpgg(3)"], "no model_defence 'jpgg'; did you mean 'jpeg'?"),
        (["--model-defence", "mad(1.0)"], "'mad(1.0)' is fitted to training images: give --dataset"),
        (["--model-defence", "chain([jpeg(75), lid])"], "is fitted to training images: give --dataset"),
        (["--policy", "watched.toml"], "'blacklight' is fitted to training images: give --dataset"),
        (["--host", "256.1.1.1"], "cannot listen on 256.1.1.1"),
        (["--port", "99999"], "cannot listen on"),
        (["--policy", "missing.toml"], "cannot read missing.toml"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(place, capsys, arguments, said):
    usual = ["serve", "--model", f'checkpoint("{place}/model")', "--policy", str(place / "policy.toml")]
    text = (place / "policy.toml").read_text()
    (place / "watched.toml").write_text(text + "\n[[monitor]]\ncall = 'blacklight'\n")
    arguments = [str(place / it) if it == "watched.toml" else it for it in arguments]
    assert main([*usual, *arguments]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert said in told[-1] and len(told) == 1


@pytest.mark.parametrize("defence", ["jpeg(75)", "chain([label_only, random_noise(0.1)])", "pruned(0.5)"])
def test_a_defence_that_is_not_fitted_needs_no_training_images(place, defence):
    """Served without --dataset, up to the socket."""
    served = protect(load_trained(f'checkpoint("{place}/model")')[0], defence, Unnamed(defence))
    assert np.isfinite(served.keyed(jax.random.key(0))(np.zeros(SHAPE, np.float32))).any()
