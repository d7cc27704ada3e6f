"""The hash chain: one JSON object a line, each with the SHA-256 of the line before it and of itself.

    {"number":1,"time":"2026-11-27T03:28:00.123456Z","kind":"request","fields":{...},"before":"<of 0>","hash":"..."}

`hash` is the SHA-256 of the line without its last member, byte for byte as it stands there; entry 0 follows 64 zeros.
An entry of kind "signature" has the Ed25519 signature of a private key over the number and the hash of the entry
before it, and with that over everything up to there. A **head** is the number and the hash of an entry, kept elsewhere.

What it proves. Whoever changes, takes out, puts in or moves an entry has to hash anew all that follow, and then fails
the signatures after it, which he cannot make, or the head. The file alone cannot tell that its end was cut off at the
end of a line, or that entries after its last signature were hashed anew: a head tells it.

Reference: Schneier & Kelsey, "Secure audit logs to support computer forensics", ACM TISSEC 2(2), 1999.
"""

import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from robustbench_jax import signing
from robustbench_jax.serving.segments import Segment, numbered, segments
from robustbench_jax.types import UserError

OPENED, CONTINUED, RECOVERED, SIGNATURE, CLOSED = "opened", "continued", "recovered", "signature", "closed"
OWN = (OPENED, CONTINUED, RECOVERED, SIGNATURE, CLOSED)  # kinds that the log writes about itself
MEMBERS = ("number", "time", "kind", "fields", "before")
GENESIS = "0" * 64
PATIENCE = 50  # looks, a hundredth of a second apart, at a line that somebody may be writing
TAIL = re.compile(rb',"hash":"([0-9a-f]{64})"}')
TAIL_LENGTH = len(',"hash":""}') + 64


class Head(NamedTuple):
    """Which entry a log ended with, and its hash: written `15:9f2c...`."""

    number: int
    hash: str

    def __str__(self) -> str:
        return f"{self.number}:{self.hash}"

    @classmethod
    def parse(cls, text: str) -> "Head":
        """UserError for what is no head."""
        if not (found := re.fullmatch(r"(\d+):([0-9a-f]{64})", text.strip())):
            raise UserError(
                f"'{text}' is no head; it is a number, a colon and 64 hexadecimal digits, as verify prints it"
            )
        return cls(int(found[1]), found[2])


@dataclass(frozen=True)
class Entry:
    """One line of the log. time: UTC, as text in ISO 8601, which sorts as time does."""

    number: int
    time: str
    kind: str
    fields: dict[str, Any]
    before: str
    hash: str

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self.fields.get(name, default)


def line_of(number: int, time: str, kind: str, fields: dict[str, Any], before: str) -> tuple[bytes, str]:
    """A line, with its end, and its hash. ValueError or TypeError for fields that JSON does not have."""
    content = dict(zip(MEMBERS, (number, time, kind, fields, before), strict=True))
    body = json.dumps(content, separators=(",", ":"), allow_nan=False, default=_plain).encode()
    digest = hashlib.sha256(body).hexdigest()
    return body[:-1] + f',"hash":"{digest}"}}\n'.encode(), digest


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not JSON")


def entry_of(line: bytes) -> Entry:
    """What a line, without its end, holds. ValueError where it is not what its hash says."""
    body, end = line[:-TAIL_LENGTH] + b"}", TAIL.fullmatch(line[-TAIL_LENGTH:])
    if end is None:
        raise ValueError("it is no entry: it does not end with a hash")
    if hashlib.sha256(body).hexdigest().encode() != end[1]:
        raise ValueError("it was changed: its hash is not that of its content")
    try:
        content = json.loads(body)
    except RecursionError:
        content = None
    if not isinstance(content, dict) or tuple(content) != MEMBERS or not isinstance(content["fields"], dict):
        raise ValueError("it is no entry, though its hash is right: somebody else wrote it")
    if type(content["number"]) is not int or not all(isinstance(content[k], str) for k in ("time", "kind", "before")):
        raise ValueError("it is no entry, though its hash is right: somebody else wrote it")
    return Entry(**content, hash=end[1].decode())


def signature(head: Head, key: Ed25519PrivateKey) -> dict[str, Any]:
    """The fields of an entry that signs the one before it."""
    return _signed(head) | {"signature": signing.sign(_signed(head), key)}


def _signed(head: Head) -> dict[str, Any]:
    return {"log": "robustbench-jax audit log", "of": head.number, "head": head.hash}


def entries(path: str | Path, *, damaged: bool = True) -> Iterator[Entry]:
    """The entries of a log, one after another; an end that was cut short is none. A line that is not what its hash says
    is a UserError, or passed over where damaged is False. Whether they follow one another is for `verify` to say.
    """
    for _, file in _files(path):
        for number, line in enumerate(_lines(file), 1):
            try:
                if line.endswith(b"\n"):
                    yield entry_of(line[:-1])
            except ValueError as error:
                if damaged:
                    raise UserError(f"{file}, line {number}: {error}") from None


def _files(path: str | Path) -> list[Segment]:
    """The segments of a log; at least one, which may be missing."""
    return segments(path) or [Segment(numbered(Path(path)), Path(path))]


def _lines(path: str | Path, start: int = 0) -> Iterator[bytes]:
    try:
        with open(path, "rb") as file:
            size, at = os.fstat(file.fileno()).st_size, start
            file.seek(start)
            for line in file:
                yield line
                at += len(line)
                if at >= size or not line.endswith(b"\n"):
                    return  # a writer may be faster than a reader, and what follows half a line is no line
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


@dataclass(frozen=True)
class Problem:
    """line: which one of the file, from 1."""

    line: int
    what: str
    file: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.what}"


@dataclass
class Walk:
    """A reading of a log from its first line, which notes what is wrong with it and goes on.

    key: whose signatures must be there; None looks at the chain alone. expected: a head that must be in it.
    segment: the file that is read; lines: of it; whole: its bytes up to the end of the last whole line; tail: what
    comes after that. before: how many entries stand before the first that is read, in files that are not.
    """

    key: Ed25519PublicKey | None = None
    expected: Head | None = None
    problems: list[Problem] = field(default_factory=list)
    head: Head = Head(-1, GENESIS)
    time: str = ""  # of the last entry
    segment: Segment | None = None
    files: int = 0
    before: int = 0
    lines: int = 0
    whole: int = 0
    tail: bytes = b""
    signatures: int = 0
    signed: int | None = None  # the last entry that a signature vouches for
    unsigned: int = 0  # entries since the last signature, without those that the log writes about itself
    _sure: bool = True  # whether the line before this one was sound
    _every: int | None = None  # how many entries may stand between signatures, as a signed entry says
    _announced: int | None = None

    def through(self, path: str | Path) -> "Walk":
        """The walk, gone through all files of a log. UserError where one cannot be read."""
        due = numbered(Path(path))
        for segment in _files(path):
            self._enter(segment, due)
            self.on()
            due = segment.number + 1
        return self

    def on(self) -> "Walk":
        """The walk, gone on to the end of the file."""
        self.tail = b""
        for line in _lines(self.segment.path, self.whole):
            if line.endswith(b"\n"):
                self.read(line[:-1])
                self.whole += len(line)
            else:
                self.tail = line
        return self

    def _enter(self, segment: Segment, due: int) -> None:
        """Begins with a file; due: the number that it should have."""
        if self.segment:
            self._end()
        self.segment, self.lines, self.whole, self.tail = segment, 0, 0, b""
        if segment.number > due:
            missing = f"file {due} is" if segment.number == due + 1 else f"files {due} to {segment.number - 1} are"
            self._note(f"{missing} missing before it", 1)
        self.files += 1
        self._sure = self._sure and (self.files > 1 or segment.number == 1)  # nothing is known of what comes before

    def _end(self) -> None:
        """Notes what only the end of a file shows."""
        if self.tail:
            self._note(f"cut short: {len(self.tail)} bytes without an end, left by a kill or by a hand", self.lines + 1)
        elif not self.lines and (self.files > 1 or self.segment.number > 1):
            self._note("there is no entry", 1)

    def finish(self) -> "Walk":
        """Notes what only the end shows."""
        self._end()
        if self.head.number < 0 and not self.problems:
            self._note("there is no entry", 1)
        if self.expected and self.head.number < self.expected.number:
            self._note(
                f"the log ends with entry {self.head.number}, and the head that was kept is entry "
                f"{self.expected.number}: the end was cut off",
                max(self.lines, 1),
            )
        if self.key and not self.signatures:
            self._note("no entry is signed", 1)
        return self

    def read(self, line: bytes) -> None:
        """The next line, without its end."""
        self.lines += 1
        try:
            entry = entry_of(line)
        except ValueError as error:
            self._note(str(error))
            self._sure = False
            return
        if self.lines == 1:
            self._begin(entry)
        if entry.number <= self.head.number:
            return self._note(f"entry {entry.number} is out of its place, or there twice: this line or one before it")
        self._follow(entry)
        self._look_for_head(entry)
        self._count(entry)
        self.head, self.time, self._sure = Head(entry.number, entry.hash), entry.time, True

    def _follow(self, entry: Entry) -> None:
        due = self.head.number + 1
        if not self._sure:
            return
        if entry.number > due:
            missing = f"entry {due} is" if entry.number == due + 1 else f"entries {due} to {entry.number - 1} are"
            self._note(f"{missing} missing before entry {entry.number}")
        elif entry.before != self.head.hash:
            self._note(f"entry {entry.number} does not follow the line before it: one of the two was put there later")
        elif entry.number == 0 and entry.kind != OPENED:
            self._note(f"a log begins with an entry '{OPENED}', not '{entry.kind}'")

    def _begin(self, entry: Entry) -> None:
        """The first entry of a file."""
        number = self.segment.number
        if number > 1 and entry.kind != CONTINUED:
            self._note(f"a later file of a log begins with an entry '{CONTINUED}', not '{entry.kind}'")
        elif entry.kind == CONTINUED and entry.get("segment") != number:
            self._note(f"this is file {entry.get('segment')} of the log, under the name of file {number}")
        if self.files == 1 and number > 1:
            self.before = entry.number

    def _look_for_head(self, entry: Entry) -> None:
        if self.expected and entry.number == self.expected.number and entry.hash != self.expected.hash:
            self._note(f"entry {entry.number} is not the one whose hash was kept: the log was written anew")

    def _count(self, entry: Entry) -> None:
        if entry.kind == SIGNATURE:
            return self._check_signature(entry)
        if entry.kind in (OPENED, CONTINUED):
            self._announced = entry.get("sign_every")
        self.unsigned += entry.kind not in OWN
        if self.key and isinstance(self._every, int) and self.unsigned == self._every + 1:
            self._note(f"there should be a signature before entry {entry.number}: one every {self._every} was promised")

    def _check_signature(self, entry: Entry) -> None:
        head = Head(entry.number - 1, entry.before)
        if any(entry.get(name) != value for name, value in _signed(head).items()):
            return self._note(f"entry {entry.number} signs another entry than the one before it")
        if self.key and not signing.holds(entry.get("signature"), _signed(head), self.key):
            return self._note(f"the signature in entry {entry.number} is not of this key")
        self.signatures, self.signed, self.unsigned = self.signatures + 1, head.number, 0
        self._every = self._announced

    def _note(self, what: str, line: int | None = None) -> None:
        self.problems.append(Problem(self.lines if line is None else line, what, str(self.segment.path)))


@dataclass(frozen=True)
class Verdict:
    """What `verify` found; true where nothing is wrong. files: how many it is in. signed: the last entry that a checked
    signature vouches for.
    """

    path: str
    files: int
    entries: int
    head: Head
    problems: tuple[Problem, ...]
    signatures: int
    signed: int | None

    def __bool__(self) -> bool:
        return not self.problems

    def __str__(self) -> str:
        if self.problems:
            return "\n".join(map(str, self.problems))
        files = f" in {self.files} files" if self.files > 1 else ""
        return f"{self.path}: all {self.entries} entries{files} verify; {self.covered()}; head {self.head}"

    def covered(self) -> str:
        """What the signatures prove, in words."""
        if self.signed is None:
            return "signatures were not checked, give a public key"
        after = self.head.number - self.signed - 1
        return f"{self.signatures} signatures, up to entry {self.signed}, {after} entries after the last one"

    def as_dict(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "verifies": bool(self),
            "files": self.files,
            "entries": self.entries,
            "head": str(self.head),
            "signatures": self.signatures,
            "signed": self.signed,
            "problems": [vars(problem) for problem in self.problems],
        }


def _is_open(path: str | Path) -> bool:
    """Whether a process has the log open to write to it."""
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def verify(path: str | Path, public_key: str | Path | None = None, expected: Head | None = None) -> Verdict:
    """Whether a log, in one file or several, is as it was written, and each place where it is not.

    public_key: the file with the key that must have signed it. expected: a head that was kept elsewhere. Raises
    UserError where a file cannot be read.
    """
    key = None if public_key is None else signing.public_key(public_key)
    walk = Walk(key, expected).through(path)
    for _ in range(PATIENCE):
        if walk.tail and _is_open(walk.segment.path):  # a line that is being written has no end yet
            time.sleep(0.01)
            walk.on()
    walk.finish()
    found = walk.files, walk.head.number + 1 - walk.before, walk.head, tuple(walk.problems), walk.signatures
    return Verdict(str(path), *found, walk.signed if key else None)
