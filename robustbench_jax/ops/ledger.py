"""The queue of one attack: which work items are still owed, and which one broke which example.

An example's items (restarts, target classes) are numbered; its winner is its lowest-numbered success. An item is
dropped as soon as a lower one has succeeded, so what is found does not depend on which ran first.
Host code; N examples, I items each.
"""

from collections import deque

import numpy as np


class Ledger:
    def __init__(self, examples: int, items: int):
        self.items = items
        self.pending = deque((item, example) for item in range(items) for example in range(examples))
        self.winner = np.full(examples, items)  # `items` where nothing has succeeded
        self.owed = np.full(examples, items)
        self.forwards = np.zeros((examples, items), np.int64)
        self.gradients = np.zeros((examples, items), np.int64)

    def take(self, count: int) -> list[tuple[int, int]]:
        """Up to `count` items (item, example) that can still matter, in order."""
        taken = []
        while self.pending and len(taken) < count:
            item, example = self.pending.popleft()
            if item < self.winner[example]:
                taken.append((item, example))
        return taken

    def matters(self, item: np.ndarray, example: np.ndarray) -> np.ndarray:
        """True where no lower item of the example has succeeded."""
        return item < self.winner[example]

    def settle(self, item: int, example: int, success: bool, forwards: int, gradients: int) -> bool:
        """Enters one judged item. True where its x_adv is the example's best so far (a success, or the last try)."""
        self.forwards[example, item], self.gradients[example, item] = forwards, gradients
        self.owed[example] -= 1
        if success and item < self.winner[example]:
            self.winner[example] = item
            return True
        return self.winner[example] == self.items and item == self.items - 1

    @property
    def broken(self) -> np.ndarray:
        return self.winner < self.items

    @property
    def finished(self) -> int:
        """How many examples have their verdict; an estimate while items run out of order."""
        return int(np.sum(self.broken | (self.owed == 0)))

    def spent(self, counts: np.ndarray) -> np.ndarray:
        """Evaluations per example [N]: those of the items up to the winner; dropped items are not its cost."""
        return np.sum(counts * (np.arange(self.items) <= self.winner[:, None]), axis=1)
