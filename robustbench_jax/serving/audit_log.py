"""The audit log: what was asked of a model, what was answered, who changed what. Appended to, never edited.

    with AuditLog("audit.jsonl", signing_key=Path("me")) as log:
        log.append("request", account="alice", input=kept(x, "digest", key))

An entry is on the disk when `append` returns. Threads that append at once share one write and one fsync. A log that was
killed while it wrote ends in the middle of a line; opening it moves that torn end into a file beside it and says so in
an entry of its own; nothing that was acknowledged is in it. The form of the lines, and what they prove, is in
serving/chain.py; kinds of entries that incident.py knows are in its docstring.
"""

import fcntl
import hashlib
import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from robustbench_jax import signing
from robustbench_jax.serving.chain import (
    CLOSED,
    CONTINUED,
    OPENED,
    OWN,
    RECOVERED,
    SIGNATURE,
    Head,
    Walk,
    entry_of,
    line_of,
    signature,
    verify,
)
from robustbench_jax.serving.incident import report
from robustbench_jax.serving.redaction import kept, requests
from robustbench_jax.serving.segments import Segment, named, numbered, segments
from robustbench_jax.types import UserError
from robustbench_jax.whole_files import reason, write_whole

__all__ = ["AuditLog", "Head", "kept", "report", "requests", "verify"]


class AuditLog:
    """path: the file, made where it is missing. signing_key: an Ed25519 key (signing.py) that signs every `sign_every`
    entries, on opening, on closing and at the end of a file. durable: whether `append` waits for the disk, or only for
    the system. rotate_bytes: the size from which on it goes on in another file; rotate_daily: with each day, in UTC.

    Raises UserError for a log that does not verify, that another process has open, that another key signed, or that is
    signed while no key is given.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        signing_key: Path | None = None,
        sign_every: int = 100,
        durable: bool = True,
        rotate_bytes: int | None = None,
        rotate_daily: bool = False,
    ):
        for name, value in {"sign_every": sign_every, "rotate_bytes": rotate_bytes}.items():
            if value is not None and value < 1:
                raise UserError(f"{name} = {value} must be at least 1")
        self.path, self.durable = Path(path), durable
        if numbered(self.path) > 1:
            raise UserError(f"{path} is a later file of a log; name its first one")
        self._rotate_bytes, self._rotate_daily = rotate_bytes, rotate_daily
        self._key = None if signing_key is None else signing.private_key(signing_key, signing.password())
        self._every = sign_every
        self._chain, self._disk = threading.Lock(), threading.Condition()  # what comes next; who writes
        self._writing = False
        self._pending: list[bytes | None] = []  # None: another file begins
        self._closed, self._failure = False, ""
        files = segments(self.path) or [Segment(1, self.path)]
        self._guard = self._file = _locked(files[0].path)  # held for as long as the log is open
        try:
            if len(files) > 1:
                self._file = _locked(files[-1].path)
            self._open()
        except BaseException:
            self._unlock()
            raise

    def append(self, kind: str, /, **fields: Any) -> int:
        """Adds one entry; returns its number once it is kept. fields: whatever JSON has, NumPy numbers too.

        Raises UserError for a kind that the log keeps to itself, for fields that JSON does not have, once the log is
        closed, and for a disk that does not take the entry: after that it takes none, until it is opened anew.
        """
        return self.append_all([(kind, fields)])[0]

    def append_all(self, entries: Iterable[tuple[str, dict[str, Any]]]) -> list[int]:
        """Adds entries of a kind with fields, one after another, and waits for the disk once; returns their numbers.
        After a UserError those before the one that is wrong are in the log.
        """
        numbers = []
        with self._chain:
            for kind, fields in entries:
                if kind in OWN:
                    raise UserError(f"entries of kind '{kind}' are the log's own; choose another kind")
                self._turn()
                numbers.append(self._add(kind, fields))
                self._unsigned += 1
                if self._key and self._unsigned >= self._every:
                    self._sign()
        if numbers:
            self._commit(numbers[-1])
        return numbers

    @property
    def head(self) -> Head:
        """Of the last entry; keep it elsewhere, and `verify` sees whatever is cut off later."""
        with self._chain:
            return self._head

    def sign(self) -> None:
        """Signs what there is now, for instance once a minute. UserError without a key."""
        if self._key is None:
            raise UserError(f"{self.path} has no signing key")
        with self._chain:
            number = self._sign()
        self._commit(number)

    def close(self) -> None:
        """Notes that the log was closed, signs it, and lets others open it. A second time it does nothing."""
        with self._chain:
            if self._closed:
                return
            closing = not self._failure
            if closing:
                number = self._add(CLOSED, {})
                number = self._sign() if self._key else number
            self._closed = True
        try:
            if closing:
                self._commit(number)
        finally:
            with self._disk:
                self._disk.wait_for(lambda: not self._writing)
                self._unlock()

    def __enter__(self) -> "AuditLog":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _open(self) -> None:
        """Goes on from the last whole entry; writes over a torn end only once that is kept elsewhere."""
        walk = Walk(self._key and self._key.public_key()).through(self.path)
        self._end, torn = walk.whole, walk.tail
        if torn and _whole(torn):  # only the end of its line is missing
            walk.read(torn)
            self._pending.append(b"\n")
        if walk.problems:
            raise UserError(f"{walk.problems[0]}; move it away: a log that does not verify is not continued")
        if walk.files > 1 and not walk.lines:
            raise UserError(f"{walk.segment.path} has no whole entry, which no kill leaves; move it away")
        if walk.signatures and not self._key:
            raise UserError(f"{self.path} is signed; give the key that it is signed with")
        self._head, self._unsigned, self._committed = walk.head, walk.unsigned, walk.head.number
        self._number, self._planned = walk.segment.number, walk.segment.number  # of the file; of that of the next entry
        self._size, self._day = self._end, walk.time[:10]
        if self._pending:
            self._end += len(torn)
        self._add(OPENED, self._promise())
        if torn:
            self._add(RECOVERED, self._moved_aside(b"" if _whole(torn) else torn))
        number = self._sign() if self._key else self._head.number
        self._commit(number)
        os.ftruncate(self._file, self._end)
        if self.durable:
            os.fsync(self._file)
            _fsync_directory(self.path.parent)

    def _unlock(self) -> None:
        for file in {self._guard, self._file}:
            os.close(file)

    def _turn(self) -> None:
        """Goes on in another file where it is time to; the caller has the chain."""
        today = _now().date().isoformat() if self._rotate_daily else ""
        late = self._day not in ("", today) and self._rotate_daily
        self._day = today
        if not late and (self._rotate_bytes is None or self._size < self._rotate_bytes):
            return
        if self._key and self._unsigned:
            self._sign()
        self._pending.append(None)
        self._planned, self._size = self._planned + 1, 0
        self._add(CONTINUED, self._promise() | {"segment": self._planned})

    def _promise(self) -> dict[str, Any]:
        """What the log says of itself when it is opened; a new one gets a name that no other has."""
        fresh = {"log": os.urandom(16).hex()} if self._head.number < 0 else {}
        return fresh | {"version": 1, "sign_every": self._every if self._key else None}

    def _moved_aside(self, torn: bytes) -> dict[str, Any]:
        """Keeps what is cut off in a file beside the log; what the log says of it."""
        digest = hashlib.sha256(torn).hexdigest()
        if not torn:
            return {"cut": 0}
        aside = self.path.with_name(f"{self.path.name}.torn-{digest[:12]}")
        write_whole(aside, lambda file: file.write(torn), mode=0o600)
        return {"cut": len(torn), "sha256": digest, "kept_in": aside.name}

    def _add(self, kind: str, fields: dict[str, Any]) -> int:
        """One more entry in memory; the caller has the chain."""
        if self._closed or self._failure:
            raise UserError(f"{self.path} takes no entry: {self._failure or 'it was closed'}")
        number = self._head.number + 1
        time = _now().isoformat(timespec="microseconds").replace("+00:00", "Z")
        try:
            line, digest = line_of(number, time, kind, fields, self._head.hash)
        except (TypeError, ValueError, RecursionError) as error:
            raise UserError(f"an entry of kind '{kind}' cannot be kept as JSON: {error}") from None
        self._pending.append(line)
        self._size += len(line)
        self._head = Head(number, digest)
        return number

    def _sign(self) -> int:
        self._unsigned = 0
        return self._add(SIGNATURE, signature(self._head, self._key))

    def _commit(self, number: int) -> None:
        """Returns once the entry is on the disk: whoever comes first writes what all the others have waiting."""
        with self._disk:
            while self._writing and self._committed < number:
                self._disk.wait()
            if self._committed >= number:
                return
            self._writing = True
        try:
            with self._chain:
                parts, self._pending, last = _by_file(self._pending), [], self._head.number
            self._write(parts[0])
            for lines in parts[1:]:
                self._begin(lines)
            self._committed = last
        except BaseException:  # a Ctrl-C too: nobody knows how much of it is there
            self._failure = self._failure or "a write was interrupted; open it anew"
            raise
        finally:
            with self._disk:
                self._writing = False
                self._disk.notify_all()

    def _write(self, lines: bytes) -> None:
        if self._failure:
            raise UserError(f"{self.path} takes no entry: {self._failure}")
        try:
            done = 0
            while done < len(lines):
                done += os.pwrite(self._file, lines[done:], self._end + done)
            if self.durable:
                os.fdatasync(self._file)
        except OSError as error:
            self._failure = f"it could not be written ({reason(error)}); open it anew"
            with suppress(OSError):  # what is there of these lines was promised to nobody
                os.ftruncate(self._file, self._end)
            raise UserError(f"{self.path} takes no entry: {self._failure}") from error
        self._end += len(lines)

    def _begin(self, lines: bytes) -> None:
        """Goes on in another file, which is there with these lines or not at all."""
        path = named(self.path, self._number + 1)
        try:
            if path.exists():
                raise UserError(f"{path} is there already")
            write_whole(path, lambda file: file.write(lines), mode=0o600)
            file = _locked(path)
            if self.durable:
                _fsync_directory(path.parent)
        except (UserError, OSError) as error:
            self._failure = f"it could not go on in another file ({error}); open it anew"
            raise UserError(f"{self.path} takes no entry: {self._failure}") from error
        if self._file != self._guard:
            os.close(self._file)
        self._file, self._end, self._number = file, len(lines), self._number + 1


def _now() -> datetime:
    return datetime.now(UTC)


def _by_file(pending: list[bytes | None]) -> list[bytes]:
    """The lines of this file, and of each that begins after it."""
    parts: list[list[bytes]] = [[]]
    for line in pending:
        parts.append([]) if line is None else parts[-1].append(line)
    return [b"".join(lines) for lines in parts]


def _locked(path: Path) -> int:
    """The open file, which no other process has open. UserError where that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UserError(f"cannot open {path}: {error.strerror}") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        raise UserError(f"{path} is written by another process, or by another log in this one") from None
    return file


def _fsync_directory(path: Path) -> None:
    """So that the name of a new file outlives a power cut."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _whole(line: bytes) -> bool:
    with suppress(ValueError):
        return bool(entry_of(line))
    return False
