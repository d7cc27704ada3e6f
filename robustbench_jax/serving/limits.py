"""Limits of accounts: token buckets and budgets, exact whoever asks at once.

A bucket holds up to `burst` tokens and gets `rate` of them a second; a request takes one. A budget is a number of
queries (images) in all; a request takes as many as it asks about, or none. What is taken is taken at once, under one
lock; what is spent is rebuilt from the audit log when the server starts again.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from robustbench_jax.serving.accounts import Account
from robustbench_jax.serving.problems import Problem

ROUNDING = 1e-9  # of a token: who waits as long as he was told gets one


@dataclass
class Bucket:
    tokens: float
    at: float


class Limits:
    """spent: queries by account, so far. clock: seconds that never fall."""

    def __init__(self, spent: Counter | None = None, clock: Callable[[], float] = time.monotonic):
        self.spent: Counter = Counter(spent)
        self._clock, self._lock = clock, threading.Lock()
        self._buckets: dict[str, Bucket] = {}

    def request(self, account: Account, factor: float = 1.0) -> None:
        """Takes one token; factor: what rate and burst are multiplied by. Problem 429, which says when there is one."""
        rate, burst = account.rate * factor, max(1.0, account.burst * factor)
        with self._lock:
            now = self._clock()
            bucket = self._buckets.setdefault(account.name, Bucket(burst, now))
            bucket.tokens = min(burst, bucket.tokens + (now - bucket.at) * rate)
            bucket.at = now
            if bucket.tokens < 1 - ROUNDING:
                wait = (1 - bucket.tokens) / rate
                detail = f"more than {rate:g} requests a second; try again in {wait:.3g} s"
                raise Problem(429, "rate", detail, retry_after=wait)
            bucket.tokens -= 1

    def take(self, account: Account, queries: int) -> None:
        """Takes so many queries off the budget. Problem 429 where fewer are left: then none is taken."""
        with self._lock:
            left = self.left(account)
            if left is not None and queries > left:
                detail = f"{left} of {account.budget} queries are left, {queries} were asked"
                raise Problem(429, "budget", detail, left=left)
            self.spent[account.name] += queries

    def give_back(self, account: Account, queries: int) -> None:
        """For queries that were not answered."""
        with self._lock:
            self.spent[account.name] -= queries

    def left(self, account: Account) -> int | None:
        """None where there is no budget."""
        return None if account.budget is None else max(0, account.budget - self.spent[account.name])
