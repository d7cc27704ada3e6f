"""Masked: a network whose logits pass something that hides their gradients, or what they say.

Shapes: D input shape, C classes. One image.
"""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import jax

from robustbench_jax.ops.straight_through import through
from robustbench_jax.types import Classifier


@dataclass(frozen=True)
class Masked:
    """net of a Classifier with params (the inner net's, the mask), the latter with `hide(key, x, logits)` and a key
    where it is randomised (defences/model/, defences/output/).

    past: the gradient is that of the inner net's logits; what is answered stays as it is.
    """

    inner: Hashable
    stochastic: bool = False
    past: bool = False

    @property
    def rejects(self) -> bool:
        return getattr(self.inner, "rejects", False)

    @property
    def approximated(self) -> "Masked":
        return replace(self, inner=getattr(self.inner, "approximated", self.inner), past=True)

    def twin(self, params: tuple) -> tuple[Hashable, Any]:
        return self.inner, params[0]

    def __call__(self, params: tuple, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        (inner, mask), own = params, key
        if key is not None:
            own, key = jax.random.split(key)
        logits = Classifier(self.inner, inner, key)(x)
        hidden = mask.hide(own, x, logits)
        return through(hidden, logits) if self.past else hidden
