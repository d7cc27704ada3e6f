"""Ensembles: many models of one architecture, and the class that most of them vote for.

Logits are the numbers of votes, so that ties go to the lower class, and have no gradient: what an attack on one image
can do to them is not what they are for. `members` shows the logits of each model.
Shapes: M models, C classes, D input shape.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from robustbench_jax.models.net import Net
from robustbench_jax.types import Classifier


@dataclass(frozen=True)
class Ensemble:
    """net of a Classifier whose params are the inner net's, stacked along a first axis [M].

    spread: how many of the M models see each training image, where images are dealt out by content. draws, examples:
    where they are drawn instead, how many of how many, with replacement, each model was trained on; 0 for dealt out.
    """

    inner: Net
    models: int
    spread: int = 1
    draws: int = 0
    examples: int = 0

    def __call__(self, params: Any, x: jax.Array) -> jax.Array:
        """Votes float32 [C] for one image x [D]."""
        logits = self.members(params, x)
        return jnp.sum(jax.nn.one_hot(jnp.argmax(logits, -1), logits.shape[-1]), axis=0)

    def members(self, params: Any, x: jax.Array) -> jax.Array:
        """Logits [M, C] of one image x [D]."""
        return jax.vmap(self.inner, (0, None))(params, x)

    def trainable(self, params: Any) -> Any:
        """Nothing: an ensemble is trained as a whole or not at all."""
        return {}

    def description(self) -> dict[str, int]:
        return {"models": self.models, "spread": self.spread, "draws": self.draws, "examples": self.examples}


def empty(model: Classifier, models: int, spread: int, draws: int = 0, examples: int = 0) -> Classifier:
    """An ensemble of the model's shapes."""
    params = {k: jax.ShapeDtypeStruct((models, *v.shape), v.dtype) for k, v in model.params.items()}
    return Classifier(Ensemble(model.net, models, spread, draws, examples), params)
