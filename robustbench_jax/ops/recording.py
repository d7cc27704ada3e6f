"""What a black-box attack asks, query by query: the kernel runs as it is, on a model that notes what it is shown.

A service takes uint8 images, so what the attack asks is rounded before the model answers. An attacker who hides may add
noise of his own to every query, or move it by some pixels: he learns the answer to that, and not to what he meant.
Shapes: N examples, T steps, K queries of one step, D = [H, W, C] input shape. One work item an example.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.keys import stream
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.views import answering, view
from robustbench_jax.types import Classifier, EvasionAttack, Problem, State, UserError, record


@record
class Hiding:
    """noise: standard deviation, in units of the box; moved: pixels, at most, in each direction."""

    noise: Any = 0.0
    moved: Any = 0

    def __call__(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """What is sent in the place of x [D]. The key is consumed."""
        blur, shift = jax.random.split(key)
        rows, columns = jax.random.randint(shift, (2,), -self.moved, self.moved + 1)
        sent = jnp.roll(x, (rows, columns), (0, 1)) + self.noise * jax.random.normal(blur, x.shape)
        return jnp.round(jnp.clip(sent, 0.0, 1.0) * 255) / 255


class _Noting:
    """A view of the model that keeps what it is asked (meant) and what it is shown (sent)."""

    def __init__(self, key: jax.Array, model: Any, hiding: Hiding):
        self.key, self.model, self.hiding = key, model, hiding
        self.meant: list[jax.Array] = []
        self.sent: list[jax.Array] = []

    def __call__(self, x: jax.Array) -> jax.Array:
        sent = self.hiding(jax.random.fold_in(self.key, len(self.sent)), x)
        self.meant.append(x)
        self.sent.append(sent)
        return self.model(sent)


@dataclass(frozen=True, eq=False)
class Recorded:
    """The queries of one example in order: sent and meant uint8 [Q, D]."""

    sent: np.ndarray
    meant: np.ndarray


def recorded(
    key: jax.Array,
    attack: EvasionAttack,
    model: Classifier,
    budget: Any,
    x: np.ndarray,
    y: np.ndarray,
    queries: int,
    hiding: Hiding,
) -> list[Recorded]:
    """At most `queries` queries of an attack on each of the images x uint8 [N, D] of classes y. The key is consumed.

    UserError for an attack that sees more than answers, or that asks within a loop of its own.
    """
    arguments = key, attack, model, budget, hiding, jnp.arange(len(y)), jnp.asarray(x), jnp.asarray(y)
    with noted(attack):
        states, *notes = _begin(*arguments)
    parts, count = [notes], np.asarray(notes[2])
    while count.min() < queries and not bool(np.all(over(attack, states))) and len(parts) <= 2 * queries:
        states, *notes = _step(*arguments, states)
        parts.append(notes)
        count = count + np.asarray(notes[2])
    return [_of_one(parts, row, queries) for row in range(len(y))]


@contextmanager
def noted(attack: EvasionAttack) -> Iterator[None]:
    """UserError for an attack that sees more than answers, or, while it begins, asks within a loop of its own."""
    name = attack.registered[1]
    if attack.access not in ("scores", "labels") or attack.composite or attack.goal != "untargeted":
        raise UserError(f"{name}: queries are recorded of single untargeted attacks that see scores or labels alone")
    try:
        yield
    except jax.errors.UnexpectedTracerError:
        raise UserError(f"{name}: it asks within a loop, where its queries cannot be noted") from None


def _of_one(parts: list, row: int, queries: int) -> Recorded:
    sent, meant = (
        np.concatenate([np.asarray(part[place])[row, : int(part[2][row])] for part in parts])[:queries]
        for place in (0, 1)
    )
    return Recorded(sent, meant)


@jax.jit
def _begin(key, attack, model, budget, hiding, ids, x, y):
    return jax.vmap(partial(asked, key, attack, model, budget, hiding))(ids, as_unit(x), y)


@jax.jit
def _step(key, attack, model, budget, hiding, ids, x, y, states):
    return jax.vmap(partial(asked, key, attack, model, budget, hiding))(ids, as_unit(x), y, states)


def asked(key, attack, model, budget, hiding, id, x, y, state: State | None = None, tries: Any = 0):
    """(state, sent uint8 [K, D], meant uint8 [K, D], how many of the K were asked) of one step, or of the start. tries:
    how often it was drawn already; every time it is another one.
    """
    item = jnp.zeros((), jnp.int32)  # keys are those of ops/bucket.py
    own = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, id), item), 0 if state is None else state.t + 1)
    own = jnp.where(tries == 0, own, jax.random.fold_in(own, tries))
    seen = view(answering(model.keyed(stream(own, "model")), y), attack.access)
    noting = _Noting(stream(own, "hiding"), seen, hiding)
    problem = Problem(noting, budget, attack.goal, x, y, jnp.full((), -1, jnp.int32), item)
    new = attack.init(own, problem) if state is None else attack.step(own, problem, state)
    before = jnp.zeros((), jnp.int32) if state is None else state.forwards
    if state is not None:
        new = jax.tree.map(partial(jnp.where, over(attack, state)), state, new)
    sent, meant = (_levels(images, x.shape) for images in (noting.sent, noting.meant))
    return new, sent, meant, jnp.minimum(new.forwards - before, len(noting.sent))


def _levels(images: list[jax.Array], shape: tuple[int, ...]) -> jax.Array:
    images = jnp.stack(images) if images else jnp.zeros((0, *shape))
    return jnp.round(jnp.clip(images, 0.0, 1.0) * 255).astype(jnp.uint8)


def over(attack: EvasionAttack, state: State) -> jax.Array:
    """Whether the attack asks no more."""
    return state.done | (state.t >= attack.steps)
