"""What monitors remember of requests: the last rows of numbers, in one block that a matrix product can read.

Shapes: K rows that are remembered, F numbers in each.
"""

import math

import numpy as np

from robustbench_jax.traffic import Request


class Recent:
    """At most `capacity` rows [K, F], none older than `window` seconds, in the order of their requests."""

    def __init__(self, capacity: int, window: float = math.inf):
        self.capacity, self.window = capacity, window
        self.first = self.last = 0
        self.block = self.when = self.number = None

    def __len__(self) -> int:
        return self.last - self.first

    @property
    def rows(self) -> np.ndarray:
        return self.block[self.first : self.last]

    @property
    def numbers(self) -> np.ndarray:
        """int [K]: the requests that they are of."""
        return self.number[self.first : self.last]

    def forget(self, time: float) -> None:
        """Drops what is too old at that time."""
        while self.first < self.last and self.when[self.first] <= time - self.window:
            self.first += 1

    def add(self, row: np.ndarray, request: Request) -> None:
        if self.block is None:
            self._move(np.empty((0, *row.shape), row.dtype), 16)
        if len(self) == self.capacity:
            self.first += 1
        if self.last == len(self.block):
            self._move(self.rows, max(16, 2 * len(self)))
        self.block[self.last], self.when[self.last], self.number[self.last] = row, request.time, request.number
        self.last += 1

    def _move(self, rows: np.ndarray, room: int) -> None:
        """Copies what is remembered to the beginning of larger blocks, so that a row is moved once on average."""
        first, last, kept = self.first, self.last, len(rows)
        old = (
            (np.empty(0), np.empty(0, int)) if self.block is None else (self.when[first:last], self.number[first:last])
        )
        self.block = np.empty((room, *rows.shape[1:]), rows.dtype)
        self.when, self.number = np.empty(room), np.empty(room, int)
        self.block[:kept], self.when[:kept], self.number[:kept] = rows, *old
        self.first, self.last = 0, kept


def distances(rows: np.ndarray, row: np.ndarray) -> np.ndarray:
    """float [K]: Euclidean distances of rows [K, F] to one."""
    away = np.subtract(rows, row, dtype=np.float32)
    return np.sqrt(np.einsum("kf,kf->k", away, away))
