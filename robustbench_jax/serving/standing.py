"""Standing: the measures that are in force against accounts, and what they do to an answer."""

import hashlib
import hmac
from collections import defaultdict

import numpy as np

MEASURES = ("throttle", "poison", "block")
LIFTED = {"unblock"}


class Standing:
    """by account, its measures. They are acts of the log: `note` says them, and says them again after a restart."""

    def __init__(self):
        self._measures: defaultdict[str, set[str]] = defaultdict(set)

    def note(self, act: str, account: str) -> None:
        """A measure counts from now on, or none does any more (unblock); other acts change nothing."""
        if act in MEASURES:
            self._measures[account].add(act)
        elif act in LIFTED:
            self._measures.pop(account, None)

    def __getitem__(self, account: str) -> frozenset[str]:
        return frozenset(self._measures.get(account, ()))


def wrong_labels(logits: np.ndarray, x: np.ndarray, secret: bytes) -> np.ndarray:
    """Logits [N, C] in which another class has the place of the best one: the same for the same image x [N, D], so
    that asking again tells nothing, and one that only the secret knows.
    """
    changed = logits.copy()
    for row, image in enumerate(x):
        best = int(np.argmax(logits[row]))
        drawn = int.from_bytes(hmac.digest(secret, np.ascontiguousarray(image).tobytes(), hashlib.sha256)[:8], "big")
        other = (best + 1 + drawn % (logits.shape[1] - 1)) % logits.shape[1]
        changed[row, [best, other]] = logits[row, [other, best]]
    return changed
