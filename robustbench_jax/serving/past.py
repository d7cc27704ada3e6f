"""The past: what a server that starts again takes from its audit log. Nothing else is kept.

What an account has spent is the sum of the images of its requests. A request is in the log before its answer is sent,
so what a killed server has answered is never forgotten, and what it has not answered costs nothing. Measures against
accounts are administrative acts. Monitors see the requests again where the log kept inputs and answers in full.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from robustbench_jax.serving.chain import Entry, entries
from robustbench_jax.serving.incident import ADMIN, REQUEST
from robustbench_jax.serving.redaction import restored
from robustbench_jax.serving.segments import segments
from robustbench_jax.serving.standing import Standing
from robustbench_jax.traffic import Request


@dataclass
class Past:
    """spent: queries by account. requests, images: how many there were."""

    spent: Counter = field(default_factory=Counter)
    standing: Standing = field(default_factory=Standing)
    requests: int = 0
    images: int = 0


def past(path: str | Path, see: Callable[[Request], Any] | None = None) -> Past:
    """What a log says, and nothing where there is none. see: is shown every image that was kept, in order."""
    found = Past()
    for entry in entries(path) if segments(path) else ():
        if entry.kind == REQUEST and isinstance(entry.get("images"), int):
            if see:
                _shown(entry, found.images, see)
            found.spent[entry.get("account")] += entry["images"]
            found.requests, found.images = found.requests + 1, found.images + entry["images"]
        elif entry.kind == ADMIN:
            found.standing.note(entry.get("act"), entry.get("on"))
    return found


def _shown(entry: Entry, number: int, see: Callable[[Request], Any]) -> None:
    x, logits = restored(entry.get("input")), restored(entry.get("logits"))
    if x is None or logits is None:
        return
    time = datetime.fromisoformat(entry.time).timestamp()
    for row, (image, answer) in enumerate(zip(x, logits, strict=True)):
        see(Request(entry["account"], time, number + row, levels(image), answer))


def levels(x: np.ndarray) -> np.ndarray:
    """uint8 of images in [0, 1], to the nearest level: what monitors look at."""
    return np.rint(x * 255).astype(np.uint8)
