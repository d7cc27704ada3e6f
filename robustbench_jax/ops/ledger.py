"""The queue of one attack: which work items are still owed, and which one broke which example.

An example's items (restarts, target classes) are numbered; its winner is its lowest-numbered success. An item is
dropped as soon as a lower one has succeeded, so what is found does not depend on which ran first. Of an attack that
looks for the smallest perturbation no item is dropped, and the winner is the smallest success.
Host code; N examples, I items each.
"""

from collections import deque

import numpy as np

COUNTS = ("forwards", "gradients", "vanished")


class Ledger:
    def __init__(self, examples: int, items: int, *, smallest: bool = False):
        self.items, self.smallest = items, smallest
        self.pending = deque((item, example) for item in range(items) for example in range(examples))
        self.winner = np.full(examples, items)  # `items` where nothing has succeeded
        self.size = np.full(examples, np.inf)  # of the winner
        self.owed = np.full(examples, items)
        self.counts = {name: np.zeros((examples, items), np.int64) for name in COUNTS}

    def take(self, count: int) -> list[tuple[int, int]]:
        """Up to `count` items (item, example) that can still matter, in order."""
        taken = []
        while self.pending and len(taken) < count:
            item, example = self.pending.popleft()
            if self.matters(item, example):
                taken.append((item, example))
        return taken

    def matters(self, item: np.ndarray, example: np.ndarray) -> np.ndarray:
        """True where no lower item of the example has succeeded."""
        return self.smallest | (item < self.winner[example])

    def settle(self, item: int, example: int, success: bool, size: float, *counts: int) -> bool:
        """Enters one judged item. True where its x_adv is the example's best so far (a success, or the last try)."""
        for name, count in zip(COUNTS, counts, strict=True):
            self.counts[name][example, item] = count
        self.owed[example] -= 1
        if success and self._better(item, example, size):
            self.winner[example], self.size[example] = item, size
            return True
        return self.winner[example] == self.items and item == self.items - 1

    def _better(self, item: int, example: int, size: float) -> bool:
        if self.smallest:
            return (size, item) < (self.size[example], self.winner[example])
        return item < self.winner[example]

    @property
    def broken(self) -> np.ndarray:
        return self.winner < self.items

    @property
    def finished(self) -> int:
        """How many examples have their verdict; an estimate while items run out of order."""
        return int(np.sum(self.broken & (not self.smallest) | (self.owed == 0)))

    def spent(self, name: str) -> np.ndarray:
        """Evaluations per example [N]: those of the items up to the winner; dropped items are not its cost."""
        paid = self.smallest | (np.arange(self.items) <= self.winner[:, None])
        return np.sum(self.counts[name] * paid, axis=1)
