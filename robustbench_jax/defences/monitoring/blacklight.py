"""blacklight(): queries that share most of their fingerprint with earlier ones.

Reference: Li et al., USENIX Security 2022, arXiv:2006.14042. Pixels are salted and quantised to steps of `step`, every
window of `window` of them is hashed with SHA-256, and the `hashes` largest hashes are the fingerprint; an image is near
to an earlier one where more than `share` of its fingerprint is in that one's too. Defaults are those of the authors'
program for CIFAR-10 (windows of 20, steps of 50, 50 hashes, more than 25 in common).
Departs from the paper: near images are put into families and the score is the size of the family, since honest people
send variants of their images as well; threshold=1 raises an alarm at the first near image, as there. A window in which
no pixel differs from the next is not hashed: on images with a plain background most others would share it. An image
that is sent again to the bit tells its sender nothing new and does not count. Hashes are cut to 8 bytes.
Shapes: D input shape, P its size. The salt is drawn from the key; who knows it can choose what is near.
"""

from collections import Counter, OrderedDict, defaultdict
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, NamedTuple

import numpy as np

from robustbench_jax.keys import generator
from robustbench_jax.registry import register
from robustbench_jax.streams import DAY
from robustbench_jax.traffic import Monitor, Request
from robustbench_jax.types import UserError, require_positive

BYTES, NAMED = 8, 10  # of a hash; accounts that evidence names


class Kept(NamedTuple):
    """One query that is remembered."""

    time: float
    account: str
    family: int
    image: bytes
    fingerprint: tuple[bytes, ...]


@dataclass(eq=False)
class State:
    """kept: by request number, the oldest first; where: the numbers that have a hash; images: what was sent, to the
    bit; families: how many queries of which account are in each.
    """

    kept: OrderedDict[int, Kept] = field(default_factory=OrderedDict)
    where: dict[bytes, list[int]] = field(default_factory=lambda: defaultdict(list))
    images: dict[bytes, int] = field(default_factory=dict)
    families: dict[int, Counter] = field(default_factory=dict)


@register("monitor", "blacklight", paper="li2022", given=("salt",))
@dataclass(frozen=True)
class Blacklight(Monitor):
    """capacity: queries that are remembered, for `memory` seconds at most; others: see above and Monitor."""

    window: int = 20
    step: int = 50
    hashes: int = 50
    share: float = 0.5
    capacity: int = 10_000
    memory: float = DAY
    across: bool = True
    threshold: float | None = None
    rate: float = 0.01
    salt: Any = None

    def __post_init__(self):
        super().__post_init__()
        require_positive("blacklight", window=self.window, step=self.step, hashes=self.hashes)
        require_positive("blacklight", capacity=self.capacity, memory=self.memory)
        if not 0 <= self.share < 1:
            raise UserError(f"blacklight: share = {self.share} must be at least 0 and below 1")

    def learn(self, key, model, data) -> "Blacklight":
        size = int(np.prod(data.x.shape[1:]))
        if self.window > size:
            raise UserError(f"blacklight: window = {self.window}: the images have {size} numbers; give fewer")
        return replace(self, salt=generator(key).integers(0, 256, size))

    def init(self) -> State:
        return State()

    def score(self, state: State, request: Request) -> tuple[float, dict[str, Any]]:
        while state.kept and (len(state.kept) >= self.capacity or self._old(state, request)):
            _forget(state)
        image = request.x.tobytes()
        digest = sha256(image).digest()
        if digest in state.images:
            number = state.images[digest]
            return _told(state, number, state.kept[number].family, same=True)
        prints = self.fingerprint(request.x)
        near, matches = _nearest(state, prints)
        family = state.kept[near].family if matches > self.share * len(prints) else request.number
        _keep(state, request.number, Kept(request.time, request.account, family, digest, prints))
        return _told(state, near, family, matches=matches, hashes=len(prints))

    def fingerprint(self, x: np.ndarray) -> tuple[bytes, ...]:
        """The hashes of an image x uint8 [D], largest first; fewer of an image with few windows that are not plain."""
        flat = x.ravel()
        levels = ((flat + self.salt) % 256 // self.step).astype(np.uint8).tobytes()
        changes = np.concatenate([[0], np.cumsum(flat[1:] != flat[:-1])])
        starts = np.flatnonzero(changes[self.window - 1 :] != changes[: len(flat) - self.window + 1])
        made = {sha256(levels[start : start + self.window]).digest()[:BYTES] for start in starts.tolist()}
        return tuple(sorted(made, reverse=True)[: self.hashes])

    def _old(self, state: State, request: Request) -> bool:
        return next(iter(state.kept.values())).time <= request.time - self.memory


def _nearest(state: State, prints: tuple[bytes, ...]) -> tuple[int, int]:
    """(number, matches) of the query that has most of the hashes, the latest of several; (-1, 0) for none."""
    counts: Counter = Counter()
    for one in prints:
        counts.update(state.where.get(one, ()))
    return max(counts.items(), key=lambda it: (it[1], it[0]), default=(-1, 0))


def _keep(state: State, number: int, query: Kept) -> None:
    state.kept[number], state.images[query.image] = query, number
    for one in query.fingerprint:
        state.where[one].append(number)
    state.families.setdefault(query.family, Counter())[query.account] += 1


def _forget(state: State) -> None:
    """The oldest query."""
    number, query = state.kept.popitem(last=False)
    del state.images[query.image]
    for one in query.fingerprint:
        state.where[one].remove(number)
        if not state.where[one]:
            del state.where[one]
    family = state.families[query.family]
    family[query.account] -= 1
    if not family[query.account]:
        del family[query.account]
    if not family:
        del state.families[query.family]


def _told(state: State, near: int, family: int, **more: Any) -> tuple[float, dict[str, Any]]:
    members = state.families[family]
    accounts = dict(members.most_common(NAMED))
    return float(members.total()), {"family": members.total(), "accounts": accounts, "nearest_request": near, **more}
