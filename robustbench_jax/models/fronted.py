"""Fronted: a network behind a preprocessing of its input.

Shapes: D input shape, C classes. One image.
"""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import jax

from robustbench_jax.models.features import layer_inputs
from robustbench_jax.types import Classifier


@dataclass(frozen=True)
class Fronted:
    """net of a Classifier with params (the inner net's, the preprocessing), the latter with `transform(key, x)`,
    `past(key, x)` and a key where it is randomised (defences/model/preprocessing.py).

    past: gradients pass the preprocessing as it says itself, whatever its own derivative; logits stay as they are.
    """

    inner: Hashable
    stochastic: bool = False
    past: bool = False

    @property
    def rejects(self) -> bool:
        return getattr(self.inner, "rejects", False)

    @property
    def approximated(self) -> "Fronted":
        return replace(self, inner=getattr(self.inner, "approximated", self.inner), past=True)

    def twin(self, params: tuple) -> tuple[Hashable, Any]:
        return self.inner, params[0]

    def layer_inputs(self, params: tuple, x: jax.Array, key: jax.Array | None = None) -> tuple[jax.Array, ...]:
        """Those of the inner network, of what it sees."""
        return layer_inputs(*self._behind(params, x, key))

    def __call__(self, params: tuple, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        model, seen = self._behind(params, x, key)
        return model(seen)

    def _behind(self, params: tuple, x: jax.Array, key: jax.Array | None) -> tuple[Classifier, jax.Array]:
        """The inner model and what it sees of x."""
        (inner, front), own = params, key
        if key is not None:
            own, key = jax.random.split(key)
        seen = front.past(own, x) if self.past else front.transform(own, x)
        return Classifier(self.inner, inner, key), seen
