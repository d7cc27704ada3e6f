"""Ed25519 key pairs (RFC 8032) in PEM files: what signs manifests of data, models and audit logs.

A private key lies in `FILE`, readable by its owner alone and encrypted where there is a password, the public one in
`FILE.pub`. The password comes from the environment variable ROBUSTBENCH_KEY_PASSWORD.
"""

import json
import os
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from robustbench_jax.types import UserError

PASSWORD = "ROBUSTBENCH_KEY_PASSWORD"
PEM, RAW = serialization.Encoding.PEM, serialization.Encoding.Raw


def password() -> str:
    """That of private keys, from the environment; "" where there is none."""
    return os.environ.get(PASSWORD, "")


def new_key(path: str | Path, password: str = "") -> None:
    """Writes a private key to `path` (PEM, encrypted where there is a password) and the public one to path + .pub."""
    key, target = Ed25519PrivateKey.generate(), Path(path)
    if target.exists():
        raise UserError(f"{path} is there already; keys are not overwritten")
    locked = serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    target.touch(0o600)
    target.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, locked))
    public = key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    target.with_name(target.name + ".pub").write_bytes(public)


def private_key(path: str | Path, password: str = "") -> Ed25519PrivateKey:
    """Raises UserError for what is no Ed25519 key, and for a wrong password."""
    try:
        key = serialization.load_pem_private_key(Path(path).read_bytes(), password.encode() or None)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is no private key in PEM, or the password is wrong: {error}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(f"{path} is no Ed25519 key")
    return key


def public_key(path: str | Path) -> Ed25519PublicKey:
    """Raises UserError for what is no Ed25519 public key."""
    try:
        key = serialization.load_pem_public_key(Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise UserError(f"{path} is no public key in PEM; `manifest --new-key NAME` makes NAME and NAME.pub") from None
    if not isinstance(key, Ed25519PublicKey):
        raise UserError(f"{path} is no Ed25519 key")
    return key


def canonical(content: dict[str, Any]) -> bytes:
    """JSON with sorted names and no spaces, without the signature: what is signed."""
    plain = {name: value for name, value in content.items() if name != "signature"}
    return json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()


def sign(content: dict[str, Any], key: Ed25519PrivateKey) -> str:
    """The signature over all of the content but a signature in it, in hexadecimal."""
    return key.sign(canonical(content)).hex()


def holds(signature: Any, content: dict[str, Any], key: Ed25519PublicKey) -> bool:
    """Whether it is the key's signature over all of the content but a signature in it."""
    try:
        key.verify(bytes.fromhex(signature), canonical(content))
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True
