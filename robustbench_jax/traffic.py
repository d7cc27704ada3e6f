"""The nouns of monitoring: a request to a served model, what a monitor makes of it, and who watches many accounts.

A monitor has a state, of one account or of all accounts together, and gives every request a score, larger for more
suspicious ones. It raises an alarm while the score is above its threshold. The threshold is the one that at most a
share `rate` of honest account-days reach, by split conformal prediction (Vovk, Gammerman & Shafer 2005; Papadopoulos et
al., ECML 2002): of n honest days of training images, simulated with the habits of streams.py, it is the
ceil((1 - rate) (n + 1))-th smallest of their largest scores. So a new honest day of such images raises an alarm with
probability at most `rate`, whatever the score is. The days before each of them fill the state and are not counted.
Monitors forget requests, after a day where nothing else is said, so that days are alike. A monitor of all accounts at
once is promised less: its threshold is for a service with as many honest requests as one of the simulated ones, whose
TOGETHER accounts share a state, and for as many different images.
Shapes: D = [H, W, C] input shape, C classes. Host code: the server calls it request by request.
"""

import copy
import dataclasses
import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from robustbench_jax.keys import stream
from robustbench_jax.streams import DAY, USUAL, Habits, Stream, benign, times_of_day
from robustbench_jax.types import Classifier, Dataset, UserError

DAYS = 200  # honest account-days that a threshold is made of
TOGETHER = 20  # accounts of one simulated service
ACCOUNTS = 10_000  # accounts that a Watch remembers


@dataclass(frozen=True, eq=False)
class Request:
    """time: seconds since whenever, never falling; number: of the request, over all accounts. x uint8 [D]; logits
    float [C]: the model's answer, None where it gave none.
    """

    account: str
    time: float
    number: int
    x: np.ndarray
    logits: np.ndarray | None = None


@dataclass(frozen=True)
class Verdict:
    """score: larger for more suspicious requests. evidence: what it is made of, values that JSON has."""

    score: float
    alarm: bool
    evidence: dict[str, Any]


class Monitor:
    """What a registered monitor is: a frozen dataclass. Sub-classes have `init` and `score`, and `learn` where they
    need something of the model or of training images.

    across: one state over all accounts, which finds an attack that is split over several. threshold: the score above
    which there is an alarm; None for the one that `prepare` finds. rate: share of honest account-days with an alarm
    that it is made for. warm: days of honest requests after which states are alike.
    """

    registered: tuple[str, str]
    facts: dict[str, Any]
    across = False
    warm = 1
    threshold: float | None
    rate: float

    def __post_init__(self):
        if not 0 < self.rate < 1:
            raise UserError(f"{self.name}: rate = {self.rate} must be between 0 and 1")

    @property
    def name(self) -> str:
        return self.registered[1]

    def learn(self, key: jax.Array, model: Classifier, data: Dataset) -> "Monitor":
        """The monitor with what it has to know of the model and of training images. The key is consumed."""
        return self

    def init(self) -> Any:
        """The state before the first request."""
        raise NotImplementedError

    def score(self, state: Any, request: Request) -> tuple[float, dict[str, Any]]:
        """(score, evidence) of a request; the state is changed to that after it."""
        raise NotImplementedError

    def update(self, state: Any, request: Request) -> tuple[Any, Verdict]:
        """The state after a request, and the verdict. The state that is given is consumed: no one else may hold it."""
        if self.threshold is None:
            raise UserError(f"{self.name}: it has no threshold yet; prepare it, or give it one")
        score, evidence = self.score(state, request)
        alarm = bool(score > self.threshold)
        return state, Verdict(float(score), alarm, evidence | {"threshold": float(self.threshold)})

    def prepare(
        self, key: jax.Array, model: Classifier, data: Dataset, *, habits: Habits = USUAL, days: int = DAYS
    ) -> "Monitor":
        """The monitor ready for requests to the model; data: training images. The key is consumed."""
        learnt = self.learn(stream(key, "learn"), model, data)
        if learnt.threshold is not None:
            return learnt
        highest = peaks(stream(key, "days"), learnt, model, data, days, habits=habits)
        return dataclasses.replace(learnt, threshold=limit(self.name, highest, self.rate))


class Watch:
    """Several monitors, by name, over the requests of many accounts: what the server and a replay have in common.

    It remembers the `accounts` that asked last; one that was forgotten begins anew. What it remembers is a function of
    the requests so far: showing it the same ones again restores it.
    """

    def __init__(self, monitors: Mapping[str, Monitor], accounts: int = ACCOUNTS):
        self.monitors, self.accounts = dict(monitors), accounts
        self.shared = {name: monitor.init() for name, monitor in self.monitors.items() if monitor.across}
        self.own: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def see(self, request: Request) -> dict[str, Verdict]:
        """What each monitor says of the next request."""
        own, verdicts = self._remembered(request.account), {}
        for name, monitor in self.monitors.items():
            states = self.shared if monitor.across else own
            states[name], verdicts[name] = monitor.update(states[name], request)
        return verdicts

    def copy(self) -> "Watch":
        """Another one, that remembers the same."""
        other = Watch({}, self.accounts)
        other.monitors = self.monitors
        other.shared, other.own = copy.deepcopy((self.shared, self.own))
        return other

    def _remembered(self, account: str) -> dict[str, Any]:
        if account not in self.own:
            self.own[account] = {name: it.init() for name, it in self.monitors.items() if not it.across}
            if len(self.own) > self.accounts:
                self.own.popitem(last=False)
        self.own.move_to_end(account)
        return self.own[account]


def replay(
    monitors: Mapping[str, Monitor], requests: Iterable[Request]
) -> Iterator[tuple[Request, dict[str, Verdict]]]:
    """What monitors would have said of requests, in order."""
    watch = Watch(monitors)
    for request in requests:
        yield request, watch.see(request)


def merged(streams: Mapping[str, tuple[Stream, np.ndarray]]) -> list[Request]:
    """The requests of accounts, each with its stream and the times float [Q] of it, in order of time."""
    found = [
        (time, place, account, row)
        for place, (account, (_, times)) in enumerate(streams.items())
        for row, time in enumerate(times)
    ]
    order = sorted(found, key=lambda it: (it[0], it[1], it[3]))
    return [
        Request(account, float(time), number, streams[account][0].x[row], streams[account][0].logits[row])
        for number, (time, _, account, row) in enumerate(order)
    ]


def honest(
    key: jax.Array,
    model: Classifier,
    data: Dataset,
    accounts: int,
    days: int,
    *,
    habits: Habits = USUAL,
    name: str = "user",
) -> list[Request]:
    """The requests of so many honest accounts in so many days. The key is consumed."""
    streams = benign(stream(key, "benign"), model, data, accounts, days, habits=habits)
    keys = [jax.random.fold_in(stream(key, "times"), number) for number in range(accounts)]
    times = [times_of_day(own, it, days) for own, it in zip(keys, streams, strict=True)]
    return merged({f"{name} {number}": both for number, both in enumerate(zip(streams, times, strict=True))})


def services(
    key: jax.Array, model: Classifier, data: Dataset, accounts: int, days: int, *, habits: Habits = USUAL
) -> Iterator[list[Request]]:
    """So many honest accounts in so many days, TOGETHER of them at one service. The key is consumed."""
    for start in range(0, accounts, TOGETHER):
        own = jax.random.fold_in(key, start)
        yield honest(own, model, data, min(TOGETHER, accounts - start), days, habits=habits)


def peaks(
    key: jax.Array, monitor: Monitor, model: Classifier, data: Dataset, accounts: int, *, habits: Habits = USUAL
) -> np.ndarray:
    """float [accounts]: the largest score that each of so many honest accounts reaches on the day after those that
    fill the state. The key is consumed.
    """
    unlimited, found = dataclasses.replace(monitor, threshold=math.inf), []
    for requests in services(key, model, data, accounts, monitor.warm + 1, habits=habits):
        highest: dict[str, float] = {}
        for request, verdicts in replay({"": unlimited}, requests):
            if request.time >= monitor.warm * DAY:
                highest[request.account] = max(highest.get(request.account, -math.inf), verdicts[""].score)
        found += highest.values()
    return np.array(found)


def limit(name: str, highest: np.ndarray, rate: float) -> float:
    """The threshold that a new honest day, exchangeable with days of largest scores highest [n], is above with
    probability at most `rate`. UserError where n days cannot tell so small a rate.
    """
    place = math.ceil((1 - rate) * (len(highest) + 1) - 1e-9)
    if place > len(highest):
        least = 1 / (len(highest) + 1)
        raise UserError(f"{name}: rate = {rate}: {len(highest)} days tell no rate below {least:.2g}; give a larger one")
    return float(np.sort(highest)[place - 1])
