"""The files of one log: `audit.jsonl`, and those that it goes on in, `audit.jsonl.000002` and so on.

A segment that was begun is there whole up to its first entry, which names its number and has the hash of the entry
before it, the last of the segment before: the chain goes through all of them (serving/chain.py).
"""

import re
from pathlib import Path
from typing import NamedTuple

LATER = re.compile(r"(.+)\.(\d{6,})")


class Segment(NamedTuple):
    """number: from 1."""

    number: int
    path: Path


def segments(path: str | Path) -> list[Segment]:
    """Those of a log that are there, in order; of a path that names a later one, that one and those after it."""
    path = Path(path)
    first = numbered(path)
    base = path.with_name(LATER.fullmatch(path.name)[1]) if first > 1 else path
    found = [Segment(numbered(it), it) for it in base.parent.glob(f"{_literal(base.name)}.[0-9]*") if numbered(it) > 1]
    found += [Segment(1, base)] if base.exists() else []
    return sorted(it for it in found if it.number >= first)


def numbered(path: Path) -> int:
    """The number of the segment that has this name; 1 for any other name."""
    found = LATER.fullmatch(path.name)
    return int(found[2]) if found and int(found[2]) > 1 else 1


def named(path: Path, number: int) -> Path:
    """The file of a later segment of the log `path`."""
    return path.with_name(f"{path.name}.{number:06d}")


def _literal(name: str) -> str:
    """What a glob takes for this name and nothing else."""
    return re.sub(r"([*?[])", r"[\1]", name)
