"""Accounts: who may ask a served model what, how fast and how often. A JSON file with a hash in the place of each key.

A key is `rbj_` and 256 random bits. It is shown once, when it is made; the file keeps its SHA-256. A slow hash with
salt, as passwords need it, would gain nothing: what is drawn from 2^256 equals cannot be guessed from its hash, and a
fast one can be computed for every request. Each file is written whole, readable by its owner alone.
"""

import fcntl
import hashlib
import hmac
import json
import math
import os
import re
import secrets
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from robustbench_jax.registry import nearest
from robustbench_jax.types import UserError
from robustbench_jax.whole_files import write_whole

PREFIX, BITS = "rbj_", 256
SCOPES = ("predict", "metrics", "admin")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
HASH = re.compile(r"[0-9a-f]{64}")
VERSION = 1


@dataclass(frozen=True)
class Account:
    """key_hash: SHA-256 of the key. rate: requests a second, in the long run; burst: at once. budget: queries in all,
    None for no limit. created, expires: UTC, ISO 8601; expires None for never.
    """

    name: str
    key_hash: str
    scopes: tuple[str, ...] = ("predict",)
    rate: float = 10.0
    burst: int = 20
    budget: int | None = None
    created: str = ""
    expires: str | None = None
    disabled: bool = False

    def __post_init__(self):
        for wrong, what in self._wrong():
            if wrong:
                raise UserError(f"account {self.name!r}: {what}")
        object.__setattr__(self, "scopes", tuple(self.scopes))
        object.__setattr__(self, "rate", float(self.rate))

    def _wrong(self) -> Iterator[tuple[bool, str]]:
        named = isinstance(self.name, str) and NAME.fullmatch(self.name)
        yield not named, "a name has 1 to 64 letters, digits, '_', '.', '@' and '-', the first of them no sign"
        yield not (isinstance(self.key_hash, str) and HASH.fullmatch(self.key_hash)), "key_hash is no SHA-256"
        yield not (isinstance(self.scopes, list | tuple) and self.scopes), f"scopes must be some of {', '.join(SCOPES)}"
        for scope in self.scopes:
            yield scope not in SCOPES, f"no scope {scope!r}{nearest(str(scope), SCOPES)}"
        yield not (_number(self.rate) and 0 < self.rate < math.inf), f"rate = {self.rate!r} must be greater than 0"
        yield not (_whole(self.burst) and self.burst >= 1), f"burst = {self.burst!r} must be a whole number from 1"
        fits = self.budget is None or (_whole(self.budget) and self.budget >= 0)
        yield not fits, f"budget = {self.budget!r} must be a whole number, or none for no limit"
        yield not isinstance(self.disabled, bool), f"disabled = {self.disabled!r} must be true or false"
        for name, none in (("created", ""), ("expires", None)):
            time = getattr(self, name)
            yield time != none and not _is_time(time), f"{name} = {time!r} is no time; write e.g. 2027-01-31T12:00:00Z"

    def active(self, now: datetime | None = None) -> bool:
        """Whether the key counts: it is neither disabled nor expired."""
        now = now or datetime.now(UTC)
        return not self.disabled and (self.expires is None or now < _time(self.expires))

    def may(self, scope: str) -> bool:
        """Whether it has the scope; admin has all of them."""
        return scope in self.scopes or "admin" in self.scopes


class Accounts:
    """The accounts in a file. Reading is for any number of threads; each change goes to the file before it counts."""

    def __init__(self, path: Path, accounts: tuple[Account, ...] = ()):
        self.path, self._accounts, self._seen = path, accounts, None
        self._lock = threading.Lock()

    @classmethod
    def load(cls, path: str | Path, *, new: bool = False) -> "Accounts":
        """new: a file that is missing has no accounts. UserError for what is no such file, naming the account, and for
        one that others may write: whoever writes it makes himself a key.
        """
        made = cls(Path(path))
        if not (new and not made.path.exists()):
            made._read()
        return made

    def refresh(self) -> tuple[str, ...]:
        """Reads the file again where it was changed since; what changed, for the log: "alice: disabled".

        UserError where the file is no good now; what was read before counts until it is.
        """
        try:
            if _state(self.path) == self._seen:
                return ()
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror}") from None
        before = {account.name: account for account in self._accounts}
        self._read()
        after = {account.name: account for account in self._accounts}
        names = dict.fromkeys([*before, *after])
        return tuple(filter(None, (_change(name, before.get(name), after.get(name)) for name in names)))

    def __iter__(self) -> Iterator[Account]:
        return iter(self._accounts)

    def __getitem__(self, name: str) -> Account:
        """UserError for a name that no account has, with the nearest one."""
        for account in self._accounts:
            if account.name == name:
                return account
        raise UserError(f"no account '{name}'{nearest(name, [account.name for account in self._accounts])}")

    def find(self, token: str) -> Account | None:
        """The account whose key this is, if it is active; None otherwise. See `owner`."""
        account = self.owner(token)
        return account if account and account.active() else None

    def owner(self, token: str) -> Account | None:
        """The account whose key this is, active or not: for the log. It takes as long for any token."""
        digest, found = hash_of(token), None
        for account in self._accounts:
            if hmac.compare_digest(account.key_hash, digest):
                found = account
        return found

    def add(self, name: str, **limits: Any) -> str:
        """Makes an account; returns its key, which is kept nowhere. limits: fields of Account. UserError for a name
        that is there already.
        """
        token = new_token()
        account = Account(name, hash_of(token), **({"created": _now()} | limits))

        def added(accounts: tuple[Account, ...]) -> tuple[Account, ...]:
            if name in [other.name for other in accounts]:
                raise UserError(f"account '{name}' is there already; give it a new key with rotate")
            return (*accounts, account)

        self._change(added)
        return token

    def disable(self, name: str) -> None:
        """Its key does not count any more; the account stays, for those who read the log."""
        self._change_one(name, disabled=True)

    def rotate(self, name: str) -> str:
        """A new key, which is returned, in the place of the old one, which does not count any more; a disabled account
        counts again.
        """
        token = new_token()
        self._change_one(name, key_hash=hash_of(token), created=_now(), disabled=False)
        return token

    def _change_one(self, name: str, **changes: Any) -> None:
        def changed(accounts: tuple[Account, ...]) -> tuple[Account, ...]:
            old = self[name]
            return tuple(replace(old, **changes) if account is old else account for account in accounts)

        self._change(changed)

    def _change(self, change: Callable) -> None:
        """Changes what is in the file now, which others may have changed since it was read."""
        with self._lock, _alone(self.path):
            if self.path.exists():
                self._read()
            accounts = change(self._accounts)
            content = {"version": VERSION, "accounts": [asdict(account) for account in accounts]}
            write_whole(self.path, lambda file: file.write(json.dumps(content, indent=1).encode() + b"\n"), mode=0o600)
            self._accounts, self._seen = accounts, _state(self.path)

    def _read(self) -> None:
        try:
            with open(self.path, "rb") as file:
                seen, text = _state(file.fileno()), file.read()
                mode = os.fstat(file.fileno()).st_mode
        except OSError as error:
            missing = isinstance(error, FileNotFoundError)
            hint = f"; robustbench-jax keys new --accounts {self.path} makes it" if missing else ""
            raise UserError(f"cannot read {self.path}: {error.strerror}{hint}") from None
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise UserError(f"{self.path} can be written by others, who could make keys: chmod go-w {self.path}")
        self._accounts, self._seen = _parsed(text, self.path), seen


def _change(name: str, before: Account | None, after: Account | None) -> str:
    """What became of an account, in words; "" for nothing. Hashes of keys are not said."""
    if before is None or after is None:
        return f"{name}: {'added' if before is None else 'removed'}"
    changed = [f.name for f in fields(Account) if getattr(before, f.name) != getattr(after, f.name)]
    said = [_said(field, getattr(after, field)) for field in changed if field != "created"]
    return f"{name}: {', '.join(said)}" if said else ""


def _said(field: str, value: Any) -> str:
    if field == "disabled":
        return "disabled" if value else "enabled"
    return "new key" if field == "key_hash" else f"{field} = {value!r}"


def new_token() -> str:
    """A key: `rbj_` and 256 random bits in base64."""
    return PREFIX + secrets.token_urlsafe(BITS // 8)


def hash_of(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _parsed(text: bytes, path: Path) -> tuple[Account, ...]:
    try:
        content = json.loads(text)
    except ValueError:
        raise UserError(f"{path} is no file of accounts: no JSON") from None
    if (
        not (isinstance(content, dict) and isinstance(content.get("accounts"), list))
        or content.get("version") != VERSION
    ):
        raise UserError(f"{path} is no file of accounts of version {VERSION}")
    accounts = tuple(_account(each, path) for each in content["accounts"])
    for what in ("name", "key_hash"):
        values = [getattr(account, what) for account in accounts]
        if len(set(values)) < len(values):
            twice = next(account.name for account in accounts if values.count(getattr(account, what)) > 1)
            raise UserError(f"{path}: account '{twice}' has the {what} of another one")
    return accounts


def _account(content: Any, path: Path) -> Account:
    if not isinstance(content, dict):
        raise UserError(f"{path}: {content!r} is no account")
    known = [field.name for field in fields(Account)]
    for name in content:
        if name not in known:
            raise UserError(f"{path}: an account has no '{name}'{nearest(name, known)}")
    for name in ("name", "key_hash"):
        if name not in content:
            raise UserError(f"{path}: account {content.get('name', '')!r} has no {name}")
    try:
        return Account(**content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One change at a time, in whatever process."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UserError(f"could not write {path}: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _state(path: Path | int) -> tuple[int, int, int]:
    found = os.stat(path)
    return found.st_ino, found.st_size, found.st_mtime_ns


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time


def _is_time(text: Any) -> bool:
    try:
        return bool(_time(text))
    except (TypeError, ValueError):
        return False


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
