"""evading(attack, budget): the queries of a black-box evasion attack, one stream an image.

References: those of the attack. An attacker who hides adds noise to every query (a countermeasure to Li et al., USENIX
Security 2022, arXiv:2006.14042) or moves it (query blinding, Chen et al., SPAI 2020, arXiv:1907.05587). He learns what
the model makes of that, so that an attack which stops at its first success may stop at one that only hiding made.
What he asks for is the class of an image that the model gets right. The stream reaches its goal with the first query
that means an image within the budget (rounding to uint8 apart) which the model gets wrong.
Shapes: Q queries, D = [H, W, C] input shape.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.keys import stream
from robustbench_jax.models.features import logits_of
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.recording import Hiding, Recorded, recorded
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import nearest, register
from robustbench_jax.streams import QueryStream, Stream, answered
from robustbench_jax.types import Classifier, Dataset, UserError

HALF_A_LEVEL = 0.5 / 255


@register("attack", "evading", threat="monitoring", parts={"attack": "attack", "budget": "budget"})
@dataclass(frozen=True)
class Evading(QueryStream):
    """noise: standard deviation, in units of the box, of what is added to a query; moved: by how many pixels at most it
    is moved.
    """

    attack: Any
    budget: Any
    noise: float = 0.0
    moved: int = 0
    goal = True

    def __post_init__(self):
        if self.attack.facts["threat"] != "evasion" or self.attack.access not in ("scores", "labels"):
            raise UserError(
                f"evading: {self.attack.registered[1]} is no evasion attack that sees scores or labels alone; give "
                "e.g. square"
            )
        if min(self.noise, self.moved) < 0:
            raise UserError(f"evading: noise = {self.noise} and moved = {self.moved} must be at least 0")
        known, name = self.attack.budgets, self.budget.registered[1]
        if known is not None and name not in known:
            raise UserError(f"evading: {self.attack.registered[1]} takes no budget '{name}'{nearest(name, known)}")

    @property
    def access(self) -> str:
        return self.attack.access

    def record(self, key, model, data, count, queries, *, runtime=Runtime()):
        right = np.flatnonzero(logits_of(model, data.x, runtime).argmax(-1) == data.y)[:count]
        if len(right) < count:
            raise UserError(f"traffic: streams = {count}: the model gets {len(right)} of {len(data)} images right")
        victims, attack = data.rows(right), self.attack
        if attack.prepares:
            attack = attack.prepare(stream(key, "prepare"), model, self.budget, data.x, data.y, runtime)
        hiding, own = Hiding(self.noise, self.moved), stream(key, "attack")
        found = recorded(own, attack, model, self.budget, victims.x, victims.y, queries, hiding)
        reached = self._reached(model, victims, found, runtime)
        sent = answered(model, [it.sent for it in found], runtime)
        return [Stream(it.x, it.logits, it.useful, at) for it, at in zip(sent, reached, strict=True)]

    def _reached(
        self, model: Classifier, victims: Dataset, found: list[Recorded], runtime: Runtime
    ) -> list[int | None]:
        """How many queries it took each to mean an image within the budget that the model gets wrong."""
        spare = float(self.budget.size(jnp.full(victims.x.shape[1:], HALF_A_LEVEL)))
        answers = answered(model, [it.meant for it in found], runtime)
        return [self._first(*each, spare) for each in zip(victims.x, victims.y, answers, strict=True)]

    def _first(self, x: np.ndarray, y: int, asked: Stream, spare: float) -> int | None:
        wrong = np.flatnonzero(asked.logits.argmax(-1) != y)
        far = np.asarray(jax.vmap(self.budget.size)(as_unit(asked.x[wrong]) - as_unit(x)))
        won = wrong[far <= getattr(self.budget, "eps", np.inf) + spare + 1e-6]
        return int(won[0]) + 1 if len(won) else None
