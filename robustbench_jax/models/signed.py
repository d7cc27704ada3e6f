"""Signed models: an Ed25519 signature (RFC 8032) in a model's description, over all else that stands there.

The description has the architecture and the SHA-256 of the arrays, so a signature over it is one over the model.
`signed(checkpoint("models/mine"), "me.pub")` is the model with that check before it, like verified(...) of data.
"""

import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from robustbench_jax import signing
from robustbench_jax.models import files
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, UserError, record
from robustbench_jax.whole_files import write_whole


@register("pretrained", "signed", parts={"model": "pretrained"})
@record
class Signed:
    """model: a trained one, e.g. checkpoint("dir") or sealed("file"); key: the public key of whom to trust."""

    model: Any
    key: str

    def load(self) -> tuple[Classifier, dict]:
        """Raises UserError where the signature is missing, of another key, or of another model."""
        key = signing.public_key(self.key)
        classifier, description = self.model.load()
        check(description, key, getattr(self.model, "path", "the model"))
        if files.digest(classifier.params) != description["weights"]:
            raise UserError(f"the arrays are not those that {self.key} signed")
        return classifier, description


def with_signature(description: dict, key: Ed25519PrivateKey) -> dict:
    """The description with a signature over everything else in it."""
    return description | {"signature": signing.sign(description, key)}


def check(description: dict, key: Ed25519PublicKey, source: str) -> None:
    """UserError for a description that is not signed, or by another key, or changed since."""
    if "signature" not in description:
        raise UserError(f"{source} is not signed; sign it with: robustbench-jax sign")
    if not signing.holds(description["signature"], description, key):
        raise UserError(f"{source}: the signature is not of this key, or the model was changed")


def sign(directory: str | Path, key: Ed25519PrivateKey) -> Path:
    """Signs a model directory, whose arrays are read and compared first; returns the description's path."""
    _, description = files.load(directory)
    path = files.root(directory) / files.DESCRIPTION
    content = json.dumps(with_signature(description, key), indent=1)
    write_whole(path, lambda file: file.write(content.encode() + b"\n"))
    return path
