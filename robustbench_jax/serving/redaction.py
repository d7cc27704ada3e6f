"""What the log keeps of an input, by policy: nothing, a keyed digest, or all of it.

"digest" is HMAC-SHA256 (RFC 2104) under a key: whoever has it recognises equal inputs, and can tell whether a certain
input was asked about; whoever does not learns nothing but the shape. "full" can be read back and asked again.
"""

import base64
import binascii
import hashlib
import hmac
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robustbench_jax.registry import nearest
from robustbench_jax.serving.chain import Entry, entries
from robustbench_jax.types import UserError

POLICIES = ("none", "digest", "full")
KEY = "ROBUSTBENCH_LOG_KEY"
REQUEST = "request"


def digest_key() -> bytes:
    """The key of digests, from the environment variable ROBUSTBENCH_LOG_KEY. UserError where it is missing or short."""
    text = os.environ.get(KEY, "")
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) < 16:
        raise UserError(f"{KEY} must hold at least 32 hexadecimal digits; make one with: openssl rand -hex 32")
    return key


def require(policy: str) -> None:
    """UserError for an unknown policy, with the nearest one."""
    if policy not in POLICIES:
        raise UserError(f"no policy '{policy}' for logged inputs{nearest(policy, POLICIES)}")


def kept(x: np.ndarray, policy: str, key: bytes = b"") -> dict[str, Any]:
    """What an entry keeps of an array of numbers. key: for "digest". UserError for an unknown policy, and no key."""
    require(policy)
    if policy == "none":
        return {"kept": policy}
    x = np.ascontiguousarray(x)
    said = {"kept": policy, "shape": list(x.shape), "dtype": x.dtype.str}
    if policy == "full":
        return said | {"data": base64.b64encode(x.tobytes()).decode()}
    if not key:
        raise UserError(
            f'the policy "digest" needs a key: without one, whoever guesses an input can check it; see {KEY}'
        )
    about = repr((x.shape, x.dtype.str)).encode()
    return said | {"digest": hmac.new(key, about + x.tobytes(), hashlib.sha256).hexdigest()}


def restored(said: Any) -> np.ndarray | None:
    """The array, where all of it was kept; else None. ValueError for what `kept` did not write."""
    if not isinstance(said, dict) or said.get("kept") != "full":
        return None
    try:
        dtype = np.dtype(said["dtype"])
        if dtype.kind not in "biuf":
            raise ValueError(f"an input of type {dtype}")
        data = base64.b64decode(said["data"], validate=True)
        return np.frombuffer(data, dtype).reshape(said["shape"])
    except (KeyError, TypeError, binascii.Error) as error:
        raise ValueError(f"an input that was not kept whole: {error}") from None


@dataclass(frozen=True)
class Request:
    """One entry of kind "request", with the input where it was kept."""

    entry: Entry
    x: np.ndarray | None

    @property
    def account(self) -> str | None:
        return self.entry.get("account")


def requests(path: str | Path) -> Iterator[Request]:
    """The requests of a log in their order, to be replayed. UserError at a damaged line; verify the log first."""
    for entry in entries(path):
        if entry.kind == REQUEST:
            try:
                yield Request(entry, restored(entry.get("input")))
            except ValueError as error:
                raise UserError(f"{path}, entry {entry.number}: {error}") from None
