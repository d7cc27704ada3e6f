"""Sealed bytes: AES-256-GCM in numbered chunks, under a password or a key of 256 bits.

    header   8 bytes of name, kind of secret, log2 N, r, p (of scrypt; 0 for a key), log2 of the chunk's size,
             16 bytes of salt, 7 of nonce
    chunks   each with its tag of 16 bytes

The master key is the key itself, or scrypt (RFC 7914) of the password; HKDF-SHA256 (RFC 5869) with the salt makes of
it the key of this file alone. The nonce of a chunk is the file's 7 bytes, the chunk's number and whether it is the last
one; each chunk also authenticates the header. So a bit that is flipped anywhere, a chunk that is missing, moved or of
another file, and an end that was cut off all fail, and nothing is handed out before every chunk has verified.

Reference: Hoang, Reyhanitabar, Rogaway & Vizár, CRYPTO 2015 (STREAM), and NIST SP 800-38D (GCM).
"""

import getpass
import os
import struct
import sys
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from robustbench_jax.types import UserError

PASSWORD, KEY = "ROBUSTBENCH_SEAL_PASSWORD", "ROBUSTBENCH_SEAL_KEY"
NAME, LAYOUT = b"rbjseal\x01", ">8sBBBBB16s7s"
HEADER, TAG = struct.calcsize(LAYOUT), 16
BY_PASSWORD, BY_KEY = 1, 2
COST = (17, 8, 1)  # log2 N, r, p: 128 MiB
LARGEST = (20, 8, 4)  # what a header may ask for, before anything in it can be believed
CHUNK = 20  # log2 of bytes
SHORTEST = 8  # characters of a password


@dataclass(frozen=True)
class Secret:
    """A password, or a key of 32 bytes; it is never shown."""

    password: str = field(default="", repr=False)
    key: bytes = field(default=b"", repr=False)

    def master(self, salt: bytes, cost: tuple[int, int, int]) -> bytes:
        """32 bytes."""
        log_n, r, p = cost
        try:
            return self.key or Scrypt(salt, 32, 2**log_n, r, p).derive(self.password.encode())
        except MemoryError:
            raise UserError(f"scrypt needs {(128 * r << log_n) >> 20} MiB of memory for this password") from None


def secret_to_seal() -> Secret:
    """The key or the password in the environment, or a password asked for twice. UserError for none, both, short."""
    if os.environ.get(KEY) and os.environ.get(PASSWORD):
        raise UserError(f"both {KEY} and {PASSWORD} are set; unset one of them")
    if os.environ.get(KEY):
        return _key()
    password = _password("Password for the sealed model: ")
    if len(password) < SHORTEST:
        raise UserError(f"the password must have at least {SHORTEST} characters")
    if not os.environ.get(PASSWORD) and _password("The same again: ") != password:
        raise UserError("the two passwords are not the same")
    return Secret(password)


def secret_to_unseal(kind: int) -> Secret:
    """What a file needs that was sealed by a key or by a password. UserError where it is not given."""
    return _key() if kind == BY_KEY else Secret(_password("Password of the sealed model: "))


def _key() -> Secret:
    try:
        key = bytes.fromhex(os.environ.get(KEY, ""))
    except ValueError:
        key = b""
    if len(key) != 32:
        raise UserError(f"{KEY} must hold 64 hexadecimal digits; make a key with: openssl rand -hex 32")
    return Secret(key=key)


def _password(question: str) -> str:
    given = os.environ.get(PASSWORD, "")
    if not given and sys.stdin is not None and sys.stdin.isatty():
        given = getpass.getpass(question)
    if not given:
        raise UserError(f"there is no password: set {PASSWORD}, or be asked for it in a terminal")
    return given


def seal(data: bytes, secret: Secret, *, cost: tuple[int, int, int] = COST, chunk: int = CHUNK) -> bytes:
    """The data, sealed. cost: log2 N, r and p of scrypt, for a password; chunk: log2 of bytes."""
    kind, cost = (BY_KEY, (0, 0, 0)) if secret.key else (BY_PASSWORD, cost)
    salt, prefix = os.urandom(16), os.urandom(7)
    header = struct.pack(LAYOUT, NAME, kind, *cost, chunk, salt, prefix)
    cipher, view = _cipher(secret, salt, cost), memoryview(data)
    count = max(1, -(-len(data) >> chunk))
    parts = (view[i << chunk : (i + 1) << chunk] for i in range(count))
    chunks = (cipher.encrypt(_nonce(prefix, i, i == count - 1), part, header) for i, part in enumerate(parts))
    return b"".join([header, *chunks])


def unseal(sealed: bytes, source: str, secret: Secret | None = None) -> bytes:
    """The data. secret: None takes it from the environment or asks. source: what errors call the file.

    Raises UserError for what is not sealed, a wrong secret, and anything that was changed.
    """
    if len(sealed) < HEADER or not sealed.startswith(NAME):
        raise UserError(f"{source} is no sealed model, or its beginning was changed")
    header = sealed[:HEADER]
    _, kind, *cost, chunk, salt, prefix = struct.unpack(LAYOUT, header)
    if not _believable(kind, cost, chunk):
        raise UserError(f"{source}: its header was changed")
    secret = secret or secret_to_unseal(kind)
    if bool(secret.key) != (kind == BY_KEY):
        raise UserError(
            f"{source} was sealed by {'a key, not a password' if kind == BY_KEY else 'a password, not a key'}"
        )
    cipher = _cipher(secret, salt, tuple(cost))
    body, step = memoryview(sealed)[HEADER:], (1 << chunk) + TAG
    count = max(1, -(-len(body) // step))
    parts = (body[i * step : (i + 1) * step] for i in range(count))
    return b"".join(
        _opened(cipher, _nonce(prefix, i, i == count - 1), part, header, f"{source}: {_fault(i)}")
        for i, part in enumerate(parts)
    )


def _cipher(secret: Secret, salt: bytes, cost: tuple[int, int, int]) -> AESGCM:
    key = HKDF(hashes.SHA256(), 32, salt, b"robustbench-jax sealed").derive(secret.master(salt, cost))
    return AESGCM(key)


def _nonce(prefix: bytes, number: int, last: bool) -> bytes:
    return prefix + struct.pack(">I?", number, last)


def _opened(cipher: AESGCM, nonce: bytes, part: memoryview, header: bytes, fault: str) -> bytes:
    try:
        return cipher.decrypt(nonce, part, header)
    except (InvalidTag, ValueError):
        raise UserError(fault) from None


def _fault(number: int) -> str:
    if number == 0:
        return "the password or key is wrong, or the file was changed; nothing of it is used"
    return f"it was changed or cut short in chunk {number + 1}; nothing of it is used"


def _believable(kind: int, cost: list[int], chunk: int) -> bool:
    if kind == BY_KEY:
        return cost == [0, 0, 0] and 4 <= chunk <= 30
    most = all(0 < value <= largest for value, largest in zip(cost, LARGEST, strict=True))
    return kind == BY_PASSWORD and most and 4 <= chunk <= 30
