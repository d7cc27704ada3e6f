"""oars(attack, budget): a black-box evasion attack that learns from refusals how far apart its queries have to be.

Reference: Feng et al., CCS 2023, arXiv:2303.06280 (oracle-guided adaptive rejection sampling). A monitored service
refuses a query that raises an alarm. The attacker adapts one number of the attack, that of its proposals' spread, to
the smallest value at which few of them are refused, found by bisection with queries of its own; and he resamples: a
step of which a query was refused is drawn anew, and after `patience` refusals in a row he gives up.
Departs from the paper: one mechanism for all attacks, around their kernels as they are, where the authors' program has
a variant of each; so a step that draws nothing, such as a bisection, is asked again as it was, and only one number of
an attack is adapted (there the number of squares and their size). Defaults of the bisection are ours.
Shapes: Q queries, S streams, D = [H, W, C] input shape.
"""

from dataclasses import dataclass, fields
from typing import Any

import jax
import numpy as np

from robustbench_jax.attacks.traffic.evading import first_success, known_images, prepared, require_black_box
from robustbench_jax.keys import stream
from robustbench_jax.ops.refusals import Adapting, Ask, negotiated
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import nearest, register
from robustbench_jax.streams import QueryStream, Stream, answered
from robustbench_jax.types import Classifier, Dataset, UserError, require_positive


@register("attack", "oars", threat="monitoring", paper="feng2023", parts={"attack": "attack", "budget": "budget"})
@dataclass(frozen=True)
class Oars(QueryStream):
    """adapts: the attack's number, "" for none; low, high: between which it is looked for, by `halvings` with `probes`
    steps each; refused: share of these that may be.
    """

    attack: Any
    budget: Any
    adapts: str = ""
    low: float = 0.0
    high: float = 1.0
    halvings: int = 4
    probes: int = 4
    refused: float = 0.25
    patience: int = 20
    goal = adaptive = True

    def __post_init__(self):
        require_black_box("oars", self.attack, self.budget)
        require_positive("oars", halvings=self.halvings, probes=self.probes, patience=self.patience)
        if not 0 <= self.refused < 1:
            raise UserError(f"oars: refused = {self.refused} must be at least 0 and below 1")
        if not 0 <= self.low < self.high:
            raise UserError(f"oars: low = {self.low} must be at least 0 and below high = {self.high}")
        numbers = [it.name for it in fields(self.attack) if isinstance(getattr(self.attack, it.name), float)]
        if self.adapts and self.adapts not in numbers:
            raise UserError(
                f"oars: {self.attack.registered[1]} has no number '{self.adapts}'{nearest(self.adapts, numbers)}"
            )

    @property
    def access(self) -> str:
        return self.attack.access

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
        victims = known_images(model, data, count, runtime)
        attack = prepared(key, self.attack, self.budget, model, data, runtime)
        names = ("low", "high", "halvings", "probes", "patience")
        adapting = Adapting(self.adapts, share=self.refused, **{name: getattr(self, name) for name in names})
        known = attack, model, self.budget, victims.x, victims.y
        talks = negotiated(stream(key, "attack"), *known, queries, ask, adapting)
        sent, meant = (answered(model, parts, runtime) for parts in zip(*(it.images for it in talks), strict=True))
        return [
            Stream(it.x, it.logits, np.array(talk.useful), first_success(self.budget, *own, np.array(talk.answered)))
            for talk, it, *own in zip(talks, sent, victims.x, victims.y, meant, strict=True)
        ]
