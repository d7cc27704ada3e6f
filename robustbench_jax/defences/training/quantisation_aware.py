"""quantisation_aware(bits): trained with rounded weights, so that rounding them afterwards costs little.

Reference: Jacob et al., CVPR 2018, arXiv:1712.05877: each step's loss is that of the rounded weights, its gradient
moves the weights themselves (straight through). Follow it with the model defence `quantised(bits)`.
Departs from the paper: layer inputs are rounded afterwards only.
"""

from collections.abc import Callable
from typing import Any

import jax

from robustbench_jax.models.quantised import rounded
from robustbench_jax.ops.straight_through import through
from robustbench_jax.registry import register
from robustbench_jax.training import TrainingDefence
from robustbench_jax.types import UserError, record, static


@register("training", "quantisation_aware", paper="jacob2018")
@record
class QuantisationAware(TrainingDefence):
    """bits: of weights, from 2 to 8."""

    bits: int = static(default=4)

    def __post_init__(self):
        if not 2 <= self.bits <= 8:
            raise UserError(f"quantisation_aware: bits = {self.bits}; there are 2 to 8")

    def combine(
        self, key: jax.Array, objective: Callable, weights: Any, batch: tuple, memory: Any
    ) -> tuple[Any, Any, Any]:
        def of_rounded(weights, batch):
            loss, (params, *measured) = objective(jax.tree.map(self._levelled, weights), batch)
            return loss, (params | weights, *measured)

        return super().combine(key, of_rounded, weights, batch, memory)

    def _levelled(self, value: jax.Array) -> jax.Array:
        return through(rounded(value, self.bits), value) if value.ndim >= 2 else value
