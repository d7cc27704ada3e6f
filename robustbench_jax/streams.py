"""Streams of queries: what somebody asks of a served model, in order, and what honest people ask of it in a day.

Nobody publishes what the users of a served model send, so these habits are assumptions, stated where they are used: an
account asks so many times a day at any time of it, prefers some classes to others, sends an earlier image of its own
again now and then, to the bit or a little changed (moved by up to 2 pixels, or darker or brighter by up to a tenth).
Shapes: Q queries, D = [H, W, C] input shape, C classes. Host code.
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from robustbench_jax.keys import generator
from robustbench_jax.models.features import logits_of
from robustbench_jax.ops.refusals import Ask
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.types import Classifier, Dataset, UserError

DAY = 86400.0  # seconds
MOVED, LIGHT = 2, 0.1  # of a changed image: pixels, share of the brightness


@dataclass(frozen=True, eq=False)
class Stream:
    """x uint8 [Q, D], logits float32 [Q, C]: the answers. useful bool [Q]: the queries that it is about; what is left
    hides them. reached: how many queries it took to the attack's goal; None where it has none or did not reach it.
    """

    x: np.ndarray
    logits: np.ndarray
    useful: np.ndarray
    reached: int | None = None

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Habits:
    """Of an honest account. queries: a day. again, varied: shares of them that are an earlier image as it was, and
    changed. taste: parameter of the symmetric Dirichlet distribution that its preferences for classes are drawn from.
    """

    queries: int = 50
    again: float = 0.05
    varied: float = 0.1
    taste: float = 1.0


USUAL = Habits()


class QueryStream:
    """What a registered sender of queries is.

    facts: threat="monitoring"; access="scores", "labels" or "none": what it needs to see of the answers. honest: it is
    no attack, and every alarm is a false one. goal: there is something that a stream reaches, or does not. adaptive:
    what it asks depends on what is refused; it has `play` in the place of `record`.
    """

    registered: tuple[str, str]
    facts: dict[str, Any]
    honest = False
    goal = False
    adaptive = False

    @property
    def access(self) -> str:
        return self.facts["access"]

    @property
    def budgets(self) -> tuple[str, ...]:
        return ("traffic",)

    def record(
        self,
        key: jax.Array,
        model: Classifier,
        data: Dataset,
        count: int,
        queries: int,
        *,
        runtime: Runtime = Runtime(),
    ) -> list[Stream]:
        """`count` streams of at most `queries` queries, by somebody who has the images `data`. The key is consumed."""
        raise NotImplementedError

    def play(
        self,
        key: jax.Array,
        model: Classifier,
        data: Dataset,
        count: int,
        queries: int,
        ask: Ask,
        *,
        runtime: Runtime = Runtime(),
    ) -> list[Stream]:
        """As `record`, where each query is asked through `ask` and may be refused."""
        raise NotImplementedError


def answered(model: Classifier, parts: list[np.ndarray], runtime: Runtime = Runtime()) -> list[Stream]:
    """Streams of images uint8 [Q, D] with the model's answers, all of them asked together."""
    logits = logits_of(model, np.concatenate(parts), runtime).astype(np.float32)
    ends = np.cumsum([len(part) for part in parts])[:-1]
    return [Stream(x, own, np.ones(len(x), bool)) for x, own in zip(parts, np.split(logits, ends), strict=True)]


def benign(
    key: jax.Array,
    model: Classifier,
    data: Dataset,
    accounts: int,
    days: int,
    *,
    habits: Habits = USUAL,
    runtime: Runtime = Runtime(),
) -> list[Stream]:
    """What so many honest accounts ask in so many days, of images of the data. The key is consumed."""
    if not len(data):
        raise UserError(f"honest accounts need images to send; {data.name} has none")
    rng = generator(key)
    return answered(model, [_asked(rng, data, habits, days * habits.queries) for _ in range(accounts)], runtime)


def times_of_day(key: jax.Array, stream: Stream, days: int) -> np.ndarray:
    """float [Q], sorted: when an honest account sends its queries, in seconds. The key is consumed."""
    rng, each = generator(key), len(stream) // days
    return np.concatenate([np.sort(rng.uniform(day * DAY, (day + 1) * DAY, each)) for day in range(days)])


def varied(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """An image x uint8 [D] moved by up to MOVED pixels (its edge is repeated), or with another brightness."""
    if rng.random() < 0.5:
        wide = np.pad(x, [(MOVED, MOVED)] * 2 + [(0, 0)], mode="edge")
        top, left = rng.integers(0, 2 * MOVED + 1, 2)
        return wide[top : top + x.shape[0], left : left + x.shape[1]]
    return np.clip(np.round(x * rng.uniform(1 - LIGHT, 1 + LIGHT)), 0, 255).astype(np.uint8)


def _asked(rng: np.random.Generator, data: Dataset, habits: Habits, queries: int) -> np.ndarray:
    """uint8 [Q, D]."""
    preferences = rng.dirichlet(np.full(len(data.classes), habits.taste))
    weights = preferences[data.y] / np.maximum(np.bincount(data.y, minlength=len(data.classes))[data.y], 1)
    weights = weights + 1e-9  # a class without images is nobody's only one
    rows = rng.choice(len(data), queries, replace=queries > len(data), p=weights / weights.sum())
    sent: list[np.ndarray] = []
    for row, kind in zip(rows, rng.random(queries), strict=True):
        if not sent or kind >= habits.again + habits.varied:
            sent.append(data.x[row])
            continue
        earlier = sent[rng.integers(len(sent))]
        sent.append(earlier if kind < habits.again else varied(rng, earlier))
    return np.stack(sent)
