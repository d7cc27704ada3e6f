"""Rejecting: a network that gives no answer where a detector finds its input suspicious.

The combination of both into one network with one more class is Carlini & Wagner's, AISec 2017, arXiv:1705.07263: an
attack on it has to fool the classifier and the detector at once.
Shapes: D input shape, C classes. One image.
"""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from robustbench_jax.types import Classifier


@dataclass(frozen=True)
class Rejecting:
    """net of a Classifier with params (the inner net's, the detector). Logits [C + 1]: those of the inner net, and that
    of no answer, which is their largest one plus the detector's `excess(model, x)`: above 0 where it rejects
    (defences/serving/detector.py).

    past: gradients pass what has none, in the detector (whose `past` is handed on) as in the inner net.
    """

    inner: Hashable
    stochastic: bool = False
    past: bool = False
    rejects = True

    @property
    def approximated(self) -> "Rejecting":
        return replace(self, inner=getattr(self.inner, "approximated", self.inner), past=True)

    def twin(self, params: tuple) -> tuple[Hashable, Any]:
        return self.inner, params[0]

    def __call__(self, params: tuple, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        inner, detector = params
        model = Classifier(self.inner, inner, key)
        logits = model(x)
        excess = detector.excess(model, x, past=self.past)
        return jnp.append(logits, jnp.max(logits) + excess)
