"""Paging: an alert is handed to a command, posted to a URL or appended to a file; what came of it is logged."""

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx

from robustbench_jax.serving.policy import Page


def page(to: Page, alert: dict[str, Any]) -> str:
    """Tells everybody whom the policy names. Blocks; returns what came of it, in a line."""
    said = json.dumps(alert, default=str)
    done = []
    for name, tell in (("command", _command), ("url", _url), ("file", _file)):
        if getattr(to, name):
            try:
                done.append(f"{name}: {tell(to, said)}")
            except (OSError, subprocess.SubprocessError, httpx.HTTPError, httpx.InvalidURL) as error:
                done.append(f"{name}: failed ({type(error).__name__})")
    return "; ".join(done)


def _command(to: Page, said: str) -> str:
    done = subprocess.run(to.command, input=said.encode(), timeout=to.seconds, capture_output=True, check=False)
    return f"exit code {done.returncode}"


def _url(to: Page, said: str) -> str:
    headers = {"content-type": "application/json"}
    return f"status {httpx.post(to.url, content=said, headers=headers, timeout=to.seconds).status_code}"


def _file(to: Page, said: str) -> str:
    with open(Path(to.file), "a") as file:
        file.write(said + "\n")
    return "written"
