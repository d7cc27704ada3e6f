"""Sealing: what RFC 7914, RFC 5869 and GCM say, computed apart; and whatever is changed is refused."""

import hashlib
import hmac
import struct

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from robustbench_jax import sealing
from robustbench_jax.sealing import HEADER, TAG, Secret, seal, unseal
from robustbench_jax.types import UserError

KEY = Secret(key=bytes(range(32)))
PASSWORD = Secret(password="correct horse battery staple")
QUICK = (10, 8, 1)


@pytest.mark.parametrize("secret", [KEY, PASSWORD], ids=["key", "password"])
def test_a_sealed_file_opens_by_the_primitives_alone(secret):
    """hashlib.scrypt, HKDF written out with hmac, and AES-GCM chunk by chunk."""
    data = bytes(range(100))
    sealed = seal(data, secret, cost=QUICK, chunk=5)
    name, kind, log_n, r, p, chunk, salt, prefix = struct.unpack(">8sBBBBB16s7s", sealed[:36])
    assert (name, chunk) == (b"rbjseal\x01", 5)
    if secret is KEY:
        assert (kind, log_n, r, p) == (2, 0, 0, 0)
        master = bytes(range(32))
    else:
        assert (kind, log_n, r, p) == (1, 10, 8, 1)
        master = hashlib.scrypt(b"correct horse battery staple", salt=salt, n=1024, r=8, p=1, dklen=32)
    extracted = hmac.new(salt, master, hashlib.sha256).digest()
    key = hmac.new(extracted, b"robustbench-jax sealed\x01", hashlib.sha256).digest()
    body, out = sealed[36:], b""
    for number in range(4):
        part, body = body[: 32 + 16], body[32 + 16 :]
        nonce = prefix + number.to_bytes(4, "big") + bytes([number == 3])
        out += AESGCM(key).decrypt(nonce, part, sealed[:36])
    assert out == data and not body


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([4, 5, 20]))
def test_what_was_sealed_comes_back_and_is_nowhere_in_the_file(data, chunk):
    sealed = seal(data, KEY, chunk=chunk)
    assert unseal(sealed, "f", KEY) == data
    assert len(sealed) == HEADER + len(data) + TAG * max(1, -(-len(data) // 2**chunk))
    assert len(data) < 8 or data not in sealed[HEADER:]


def test_the_same_data_are_sealed_differently_each_time():
    a, b = seal(b"data", KEY), seal(b"data", KEY)
    assert a[13:] != b[13:] and a[HEADER:] != b[HEADER:]


@pytest.mark.parametrize("size", [0, 1, 40, 48])
def test_every_flipped_bit_of_every_byte_is_refused(size):
    """Header, chunks, tags; with a last chunk that is empty, short and full."""
    sealed = seal(bytes(size), KEY, chunk=4)
    for at in range(len(sealed)):
        for bit in range(8):
            changed = bytearray(sealed)
            changed[at] ^= 1 << bit
            with pytest.raises(UserError):
                unseal(bytes(changed), "f", KEY)


def test_every_flipped_byte_is_refused_under_a_password():
    sealed = seal(b"small", PASSWORD, cost=QUICK)
    for at in [*range(9), *range(12, len(sealed))]:  # 9 to 11 are scrypt's cost: the next test
        changed = bytearray(sealed)
        changed[at] ^= 1
        with pytest.raises(UserError):
            unseal(bytes(changed), "f", PASSWORD)


@pytest.mark.parametrize(
    "at, value", [(9, 0), (9, 9), (9, 11), (9, 21), (9, 255), (10, 0), (10, 1), (10, 9), (11, 2), (11, 5)]
)
def test_another_cost_of_scrypt_is_refused_and_a_monstrous_one_is_not_paid(at, value):
    sealed = bytearray(seal(b"small", PASSWORD, cost=QUICK))
    sealed[at] = value
    with pytest.raises(UserError):
        unseal(bytes(sealed), "f", PASSWORD)


def test_every_truncation_and_anything_behind_the_end_is_refused():
    sealed = seal(bytes(40), KEY, chunk=4)
    for end in range(len(sealed)):
        with pytest.raises(UserError):
            unseal(sealed[:end], "f", KEY)
    for more in (b"\0", bytes(TAG), bytes(16 + TAG)):
        with pytest.raises(UserError):
            unseal(sealed + more, "f", KEY)


def test_chunks_that_are_missing_moved_doubled_or_of_another_file_are_refused_and_counted():
    def parts(sealed):
        return [sealed[HEADER:][i : i + 16 + TAG] for i in range(0, len(sealed) - HEADER, 16 + TAG)]

    sealed, other = (seal(data * 64, KEY, chunk=4) for data in (b"a", b"b"))
    head, mine, theirs = sealed[:HEADER], parts(sealed), parts(other)
    for changed, number in (
        ([mine[0], mine[2], mine[1], mine[3]], 2),
        ([mine[0], mine[2], mine[3]], 2),
        ([mine[0], mine[1], mine[1], mine[2], mine[3]], 3),
        ([mine[0], mine[1], theirs[2], mine[3]], 3),
        (mine[:3], 3),  # cut off at the end of a chunk: the third is not the last
        ([*mine, mine[3]], 4),
    ):
        with pytest.raises(UserError, match=f"changed or cut short in chunk {number}; nothing of it is used"):
            unseal(head + b"".join(changed), "f", KEY)
    with pytest.raises(UserError, match="the password or key is wrong, or the file was changed"):
        unseal(other[:HEADER] + b"".join(mine), "f", KEY)


def test_a_wrong_secret_is_refused_and_is_not_told():
    by_key, by_password = seal(b"data", KEY), seal(b"data", PASSWORD, cost=QUICK)
    for sealed, wrong in ((by_key, Secret(key=bytes(32))), (by_password, Secret(password="another"))):
        with pytest.raises(UserError, match="the password or key is wrong") as error:
            unseal(sealed, "f", wrong)
        assert "another" not in str(error.value)
    with pytest.raises(UserError, match="was sealed by a key, not a password"):
        unseal(by_key, "f", PASSWORD)
    with pytest.raises(UserError, match="was sealed by a password, not a key"):
        unseal(by_password, "f", KEY)
    assert "horse" not in repr(PASSWORD) and "key=" not in repr(KEY)


def test_what_was_never_sealed_is_refused():
    for data in (b"", b"rbjseal\x01", b"PK\3\4" + bytes(100)):
        with pytest.raises(UserError, match="f is no sealed model"):
            unseal(data, "f", KEY)


@pytest.mark.parametrize(
    "environment, message",
    [
        ({}, "there is no password: set ROBUSTBENCH_SEAL_PASSWORD"),
        ({sealing.PASSWORD: "tiny"}, "at least 8 characters"),
        ({sealing.KEY: "abc"}, "64 hexadecimal digits"),
        ({sealing.KEY: "zz" * 32}, "64 hexadecimal digits"),
        ({sealing.KEY: "00" * 31}, "64 hexadecimal digits"),
        ({sealing.KEY: "00" * 32, sealing.PASSWORD: "long enough"}, "unset one of them"),
    ],
)
def test_secrets_that_are_missing_short_or_two_are_errors_that_do_not_show_them(monkeypatch, environment, message):
    for name in (sealing.PASSWORD, sealing.KEY):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message) as error:
        sealing.secret_to_seal()
    assert not any(value in str(error.value) for value in environment.values())


def test_a_password_is_asked_for_twice_in_a_terminal(monkeypatch):
    monkeypatch.delenv(sealing.PASSWORD, raising=False)
    monkeypatch.delenv(sealing.KEY, raising=False)
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda self: True})())
    said = iter(["one password", "one password", "one password", "another one"])
    monkeypatch.setattr("getpass.getpass", lambda question: next(said))
    assert sealing.secret_to_seal().password == "one password"
    with pytest.raises(UserError, match="the two passwords are not the same"):
        sealing.secret_to_seal()
