"""What a black-box attack asks of a service that refuses some queries and says so: the kernel runs step by step.

A step counts once all its queries were answered; else the attack stands where it stood and draws the step anew. Before
its first step it may look for the smallest value of one of its numbers at which few of its steps are refused.
Shapes: N attackers, K queries of one step, D = [H, W, C] input shape. One image an attacker, one work item an image.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.recording import Hiding, asked, noted, over
from robustbench_jax.types import Classifier, EvasionAttack

Ask = Callable[[list[int], list[np.ndarray]], list[int]]  # see `negotiated`


@dataclass(frozen=True)
class Adapting:
    """name: of the attack's number, "" for none. low, high: between which it is looked for, by so many halvings, at
    each of which so many steps are drawn as probes; share: of them may be refused. patience: how often in a row a
    step may be refused.
    """

    name: str
    low: float
    high: float
    halvings: int
    probes: int
    share: float
    patience: int


@dataclass(eq=False)
class Talk:
    """What one attacker asked, in order. sent and meant: uint8 [D] each; answered: whether it was; useful: whether it
    was a step of the attack and no probe. tries: steps that did not count; refused: of them, since the last that did.
    """

    sent: list[np.ndarray] = field(default_factory=list)
    meant: list[np.ndarray] = field(default_factory=list)
    answered: list[bool] = field(default_factory=list)
    useful: list[bool] = field(default_factory=list)
    tries: int = 0
    refused: int = 0

    @property
    def images(self) -> tuple[np.ndarray, np.ndarray]:
        """What was sent and what was meant, uint8 [Q, D]."""
        return np.stack(self.sent), np.stack(self.meant)

    def note(self, sent: np.ndarray, meant: np.ndarray, answered: int, counts: bool) -> bool:
        """Adds the queries of a step, of which the first so many were answered; whether all were."""
        whole = answered == len(sent)
        heard = len(sent) if whole else answered + 1  # nothing is asked after a refusal
        self.sent += list(sent[:heard])
        self.meant += list(meant[:heard])
        self.answered += [row < answered for row in range(heard)]
        self.useful += [counts] * heard
        self.tries += not (whole and counts)
        self.refused = 0 if whole else self.refused + counts
        return whole


def negotiated(
    key: jax.Array,
    attack: EvasionAttack,
    model: Classifier,
    budget: Any,
    x: np.ndarray,
    y: np.ndarray,
    queries: int,
    ask: Ask,
    adapting: Adapting,
) -> list[Talk]:
    """At most `queries` queries of an attack on each of the images x uint8 [N, D] of classes y. The key is consumed.

    ask(who, images): is told who asks, a list of attackers, and of each the images of one step, uint8 [k, D]; says of
    each how many of them were answered before one was refused. UserError as `recorded`.
    """
    arguments = key, attack, model, budget, jnp.arange(len(y)), jnp.asarray(x), jnp.asarray(y)
    room = _Room([Talk() for _ in y], queries, adapting, ask, arguments)
    with noted(attack):
        room.begin()
    if adapting.name:
        room.adapt()
    room.attack()
    return room.talks


@dataclass(eq=False)
class _Room:
    """All attackers, who go through their steps side by side. states: of the kernel; values [N]: of the number."""

    talks: list[Talk]
    queries: int
    adapting: Adapting
    ask: Ask
    arguments: tuple
    states: Any = None
    values: np.ndarray | None = None

    @property
    def open(self) -> np.ndarray:
        """bool [N]: who may ask on, and has not given up."""
        return np.array([len(it.sent) < self.queries and it.refused < self.adapting.patience for it in self.talks])

    def begin(self) -> None:
        begun = np.zeros(len(self.talks), bool)
        while (who := self.open & ~begun).any():
            begun |= self.round(_begin, who)

    def adapt(self) -> None:
        """Finds the values, by bisection."""
        low, high = (np.full(len(self.talks), end) for end in (self.adapting.low, self.adapting.high))
        for _ in range(self.adapting.halvings):
            self.values = (low + high) / 2
            passed = sum(self.round(_step, self.open, counts=False) for _ in range(self.adapting.probes))
            fine = 1 - passed / self.adapting.probes <= self.adapting.share
            low, high = np.where(fine, low, self.values), np.where(fine, self.values, high)
        self.values = high

    def attack(self) -> None:
        for _ in range(3 * self.queries):  # some kernels have steps that ask nothing
            if not (who := self.open & ~np.asarray(_over(self.arguments[1], self.states))).any():
                return
            self.round(_step, who)

    def round(self, program: Callable, who: np.ndarray, counts: bool = True) -> np.ndarray:
        """One step of those who bool [N]; whose was answered, bool [N]. counts: whether it moves them on."""
        tries = np.array([talk.tries for talk in self.talks])
        tuned = {} if self.values is None else {self.adapting.name: self.values.astype(np.float32)}
        states = () if self.states is None else (self.states,)
        new, sent, meant, many = program(*self.arguments, tries, tuned, *states)
        sent, meant, many = map(np.asarray, (sent, meant, many))
        left = np.array([self.queries - len(talk.sent) for talk in self.talks])
        asks = {row: sent[row, : min(many[row], left[row])] for row in np.flatnonzero(who & (many > 0))}
        passed = who & (many == 0)
        for row, answered in zip(asks, self.ask(list(asks), list(asks.values())) if asks else (), strict=True):
            whole = self.talks[row].note(asks[row], meant[row], answered, counts)
            passed[row] = whole and len(asks[row]) == many[row]
        if counts:
            self.states = new if self.states is None else _chosen(passed, new, self.states)
        return passed


@jax.jit
def _begin(key, attack, model, budget, ids, x, y, tries, tuned, states=None):
    return jax.vmap(partial(_asked, key, attack, model, budget))(ids, as_unit(x), y, tries, tuned)


@jax.jit
def _step(key, attack, model, budget, ids, x, y, tries, tuned, states):
    return jax.vmap(partial(_asked, key, attack, model, budget))(ids, as_unit(x), y, tries, tuned, states)


def _asked(key, attack, model, budget, id, x, y, tries, tuned, state=None):
    attack = attack.replace(**tuned) if tuned else attack
    return asked(key, attack, model, budget, Hiding(), id, x, y, state, tries)


@jax.jit
def _over(attack, states):
    return jax.vmap(partial(over, attack))(states)


@jax.jit
def _chosen(who, new, old):
    return jax.tree.map(lambda a, b: jnp.where(who.reshape(-1, *(1,) * (a.ndim - 1)), a, b), new, old)
