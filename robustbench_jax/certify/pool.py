"""The open domains of a search: arrays that grow, slopes and multipliers in half precision.

Every slope from 0 to 1 and every multiplier of at least 0 gives a bound, so rounding them costs nothing but tightness.
Shapes: P problems, B domains, N neurons, K rows.
"""

from typing import NamedTuple

import numpy as np

from robustbench_jax.ops.bounds.reduced import Weights

MEMORY = 2**29  # bytes, beyond which the domains that are nearest to a proof come first, so that the pool shrinks


class Domains(NamedTuple):
    """lower float32[B]; problem int32[B]; sign int8[B, N]: 1 where a neuron is on, -1 where it is off; weights."""

    lower: np.ndarray
    problem: np.ndarray
    sign: np.ndarray
    weights: Weights

    def taken(self, which: np.ndarray) -> "Domains":
        lower, problem, sign = (leaf[which] for leaf in self[:3])
        return Domains(lower, problem, sign, Weights(*(leaf[which] for leaf in self.weights)))

    def filled(self, width: int) -> "Domains":
        return self.taken(np.resize(np.arange(len(self.lower)), width))

    def halved(self, at: np.ndarray, where: np.ndarray) -> "Domains":
        """First the halves in which neuron at[b] is off, of those `where` it is one, else all; then the others."""
        rows = np.flatnonzero(where)
        both = self.taken(np.concatenate([np.arange(len(where)), rows]))
        both.sign[rows, at[rows]] = -1
        both.sign[len(where) + np.arange(len(rows)), at[rows]] = 1
        return both


class Pool:
    """Of domains of a net of so many neurons, with so many rows for each problem."""

    def __init__(self, neurons: int, rows: int):
        self.count, self.arrays = 0, self.room(64, neurons, rows)
        self.bytes = sum(leaf.nbytes for leaf in (*self.arrays[:3], *self.arrays.weights)) / 64

    @staticmethod
    def room(length: int, neurons: int, rows: int) -> Domains:
        half = (np.zeros((length, neurons), np.float16) for _ in range(2))
        weights = Weights(*half, np.zeros((length, rows), np.float32))
        return Domains(
            np.zeros(length, np.float32), np.zeros(length, np.int32), np.zeros((length, neurons), np.int8), weights
        )

    def __len__(self) -> int:
        return self.count

    def least(self, problems: int) -> np.ndarray:
        """float[P]: the least bound of each problem's domains, inf for none."""
        found = np.full(problems, np.inf)
        np.minimum.at(found, self.arrays.problem[: self.count], self.arrays.lower[: self.count])
        return found

    def add(self, lower: np.ndarray, problem: np.ndarray, sign: np.ndarray, weights: Weights) -> None:
        while self.count + len(lower) > len(self.arrays.lower):
            more = self.room(len(self.arrays.lower), *(leaf.shape[1] for leaf in self.arrays.weights[1:]))
            both = [np.concatenate(pair) for pair in zip(self.leaves(self.arrays), self.leaves(more), strict=True)]
            self.arrays = Domains(*both[:3], Weights(*both[3:]))
        part = slice(self.count, self.count + len(lower))
        for own, new in zip(self.leaves(self.arrays), (lower, problem, sign, *weights), strict=True):
            own[part] = new
        self.count += len(lower)

    def worst(self, count: int) -> Domains:
        """Takes so many domains out, those with the least bounds."""
        count = min(count, self.count)
        lower = self.arrays.lower[: self.count]
        full = self.count * self.bytes > MEMORY
        which = np.argpartition(-lower if full else lower, count - 1)[:count]
        taken = self.arrays.taken(which)
        end = self.count - count
        holes = which[which < end]
        rest = np.setdiff1d(np.arange(end, self.count), which)
        for own in self.leaves(self.arrays):
            own[holes] = own[rest]
        self.count = end
        return taken

    @staticmethod
    def leaves(domains: Domains) -> tuple[np.ndarray, ...]:
        return (*domains[:3], *domains.weights)
