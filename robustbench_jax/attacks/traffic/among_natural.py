"""among_natural(attack, dummies): every query of an attack hidden among natural images that the attacker does not need.

Reference: dummy queries against monitors of the distribution of queries, Juuti et al., EuroS&P 2019, arXiv:1805.02628:
they keep distances as honest queries have them, at the price of the queries.
Shapes: Q queries.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from robustbench_jax.keys import generator, stream
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import register
from robustbench_jax.streams import QueryStream, Stream, answered
from robustbench_jax.types import UserError


@register("attack", "among_natural", threat="monitoring", parts={"attack": "attack"})
@dataclass(frozen=True)
class AmongNatural(QueryStream):
    """dummies: natural images before each query; a stream of so many queries has fewer that are of use."""

    attack: Any
    dummies: int = 9

    def __post_init__(self):
        if self.attack.facts["threat"] != "monitoring" or self.attack.honest:
            raise UserError(f"among_natural: {self.attack.registered[1]} is no attack on a monitored service")
        if self.attack.adaptive:
            raise UserError(
                f"among_natural: {self.attack.registered[1]} asks by what is refused; hide a recorded attack"
            )
        if self.dummies < 1:
            raise UserError(f"among_natural: dummies = {self.dummies} must be at least 1")

    @property
    def access(self) -> str:
        return self.attack.access

    @property
    def goal(self) -> bool:
        return self.attack.goal

    def record(self, key, model, data, count, queries, *, runtime=Runtime()):
        useful = max(1, queries // (self.dummies + 1))
        inner = self.attack.record(stream(key, "attack"), model, data, count, useful, runtime=runtime)
        rng = generator(stream(key, "dummies"))
        rows = [rng.integers(0, len(data), self.dummies * len(it)) for it in inner]
        hiding = answered(model, [data.x[own] for own in rows], runtime)
        return [self._mixed(*both) for both in zip(inner, hiding, strict=True)]

    def _mixed(self, stream: Stream, hiding: Stream) -> Stream:
        """Each query after its dummies; what the stream reaches, it reaches with all of these."""
        every = self.dummies + 1
        useful = np.arange(every * len(stream)) % every == self.dummies
        x, logits = (
            np.empty((len(useful), *own.shape[1:]), own.dtype) for own in (stream.x, stream.logits)
        )  # fmt: skip
        x[useful], x[~useful], logits[useful], logits[~useful] = stream.x, hiding.x, stream.logits, hiding.logits
        return Stream(x, logits, useful, None if stream.reached is None else every * stream.reached)
