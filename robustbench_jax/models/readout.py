"""A readout: frozen features and a last layer that is linear in the training labels.

The score of class c is the sum, over the training images that have the label c, of how much each of them speaks for an
image. `influence` shows these N numbers, so that anybody can see what other labels would have done.
Shapes: N training images, F features, C classes, D input shape.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from robustbench_jax.models.net import Net, Params
from robustbench_jax.types import Classifier

SPEAKERS, LABELS = "readout/speakers", "readout/labels"  # float32 [N, F + 1] and int32 [N]


@dataclass(frozen=True)
class Readout:
    """net of a Classifier whose params are the inner net's with the last layer in it, and SPEAKERS and LABELS."""

    inner: Net
    examples: int

    def __call__(self, params: Params, x: jax.Array) -> jax.Array:
        return self.inner(_own(params), x)

    def layer_inputs(self, params: Params, x: jax.Array) -> tuple[jax.Array, ...]:
        return self.inner.layer_inputs(_own(params), x)

    def influence(self, params: Params, x: jax.Array) -> jax.Array:
        """[N]: how much each training image speaks for its label, to one image x [D]."""
        features = self.layer_inputs(params, x)[-1].reshape(-1)
        return params[SPEAKERS][:, :-1] @ features + params[SPEAKERS][:, -1]

    def trainable(self, params: Params) -> Params:
        """Nothing: it is solved for, not trained."""
        return {}

    def description(self) -> dict[str, int]:
        return {"examples": self.examples}


def _own(params: Params) -> Params:
    return {name: value for name, value in params.items() if name not in (SPEAKERS, LABELS)}


def empty(model: Classifier, examples: int) -> Classifier:
    """A readout of the model's shapes."""
    features = model.params["head/kernel"].shape[0]
    more = {SPEAKERS: ((examples, features + 1), jnp.float32), LABELS: ((examples,), jnp.int32)}
    shapes = {name: jax.ShapeDtypeStruct(*it) for name, it in more.items()}
    own: dict[str, Any] = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in model.params.items()}
    return Classifier(Readout(model.net, examples), own | shapes)
