"""Manifests: what a dataset was when somebody vouched for it, and what has changed since.

A manifest is a JSON file: shape, classes and counts of each split, the SHA-256 of each example (image and label), and
an Ed25519 signature (RFC 8032) over all of that in canonical form. `verified(dataset, manifest, key)` is the dataset
with that check before it: training on data that do not verify ends before it begins, and says which rows differ.
Shapes: N examples, D = [H, W, C].
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from robustbench_jax import signing
from robustbench_jax.registry import register
from robustbench_jax.types import Dataset, UserError, record

VERSION = 1
SHOWN = 5  # rows that a message names


@dataclass(frozen=True)
class Differences:
    """Of one split: rows whose image or label differ, how many were added, and how many are missing."""

    split: str
    changed: tuple[int, ...]
    added: int
    missing: int
    schema: str = ""

    def __bool__(self) -> bool:
        return bool(self.changed or self.added or self.missing or self.schema)

    def __str__(self) -> str:
        rows = ", ".join(map(str, self.changed[:SHOWN])) + (", ..." if len(self.changed) > SHOWN else "")
        said = [
            self.schema,
            f"{len(self.changed)} rows differ ({rows})" if self.changed else "",
            f"{self.added} rows were added" if self.added else "",
            f"{self.missing} rows are missing" if self.missing else "",
        ]
        return f"{self.split}: {', '.join(filter(None, said))}"


def hashes(data: Dataset) -> list[str]:
    """The SHA-256 of each example: its image's shape and bytes, and its label."""
    head = repr((data.x.shape[1:], str(data.x.dtype))).encode()
    return [
        hashlib.sha256(head + np.ascontiguousarray(x).tobytes() + str(int(y)).encode()).hexdigest()
        for x, y in zip(data.x, data.y, strict=True)
    ]


def manifest(splits: dict[str, Dataset]) -> dict[str, Any]:
    """The manifest, unsigned, of splits by name."""
    return {"version": VERSION, "splits": {name: _described(data) for name, data in splits.items()}}


def _described(data: Dataset) -> dict[str, Any]:
    counts = np.bincount(data.y, minlength=len(data.classes)).tolist()
    schema = {"shape": list(data.x.shape[1:]), "dtype": str(data.x.dtype), "classes": list(data.classes)}
    return {"schema": schema, "counts": counts, "examples": hashes(data)}


def signed(content: dict[str, Any], key: Ed25519PrivateKey) -> dict[str, Any]:
    """The manifest with a signature over everything else in it."""
    return content | {"signature": signing.sign(content, key)}


def check_signature(content: dict[str, Any], key: Ed25519PublicKey, source: str) -> None:
    """UserError for a manifest that is not signed, or by another key, or changed since."""
    if "signature" not in content:
        raise UserError(f"{source} is not signed; sign it with manifest --key")
    if not signing.holds(content["signature"], content, key):
        raise UserError(f"{source}: the signature is not of this key, or the manifest was changed")


def differences(content: dict[str, Any], split: str, data: Dataset) -> Differences:
    """What is not as the manifest says, row by row. UserError where it does not have the split."""
    if split not in content.get("splits", {}):
        raise UserError(
            f"the manifest has no split '{split}'; it has: {', '.join(content.get('splits', {})) or 'none'}"
        )
    wanted, found = content["splits"][split], hashes(data)
    now = _described(data)["schema"]
    odd = [f"{k} is {now[k]}, not {v}" for k, v in wanted["schema"].items() if now[k] != v]
    pairs = enumerate(zip(wanted["examples"], found, strict=False))
    changed = tuple(row for row, (a, b) in pairs if a != b)
    count = len(wanted["examples"])
    return Differences(split, changed, max(len(found) - count, 0), max(count - len(found), 0), "; ".join(odd))


def read(path: str | Path) -> dict[str, Any]:
    """Raises UserError for what is no manifest."""
    try:
        content = json.loads(Path(path).read_text())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise UserError(f"{path} is no manifest: no JSON") from None
    if not isinstance(content, dict) or content.get("version") != VERSION or "splits" not in content:
        raise UserError(f"{path} is no manifest of version {VERSION}")
    return content


def report(data: Dataset) -> dict[str, int]:
    """Exact duplicates and contradictions: images that are there again, and those among them with another label."""
    seen: dict[bytes, int] = {}
    again = conflicts = 0
    for x, y in zip(data.x, data.y, strict=True):
        key = hashlib.sha256(np.ascontiguousarray(x).tobytes()).digest()
        if key in seen:
            again += 1
            conflicts += seen[key] != int(y)
        seen.setdefault(key, int(y))
    return {"duplicates": again, "label_conflicts": conflicts}


@register("dataset", "verified", parts={"dataset": "dataset"})
@record
class Verified:
    """dataset: any; manifest: its file; key: the public key of whom to trust."""

    dataset: Any
    manifest: str
    key: str

    def available(self) -> bool:
        return self.dataset.available()

    def how_to_get(self) -> str:
        return self.dataset.how_to_get()

    def load(self, split: str, limit: int | None) -> Dataset:
        """Raises UserError where the signature or an example does not verify; the whole split is looked at."""
        content = read(self.manifest)
        check_signature(content, signing.public_key(self.key), self.manifest)
        data = self.dataset.load(split, None)
        if found := differences(content, split, data):
            raise UserError(f"{self.manifest} does not vouch for these data: {found}")
        return data
