"""preprocessed(defence, by): training on what a preprocessing makes of images, for models that are deployed behind it.

Reference: Guo et al., ICLR 2018, arXiv:1711.00117, section 5.2.
What the inner defence attacks is the model behind the preprocessing; what the model is trained on is what it makes of
the attacked images. Preprocessings one after another are nested, the first of them innermost.
Shapes: B batch, D input shape.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from robustbench_jax.defences.model.preprocessing import Preprocessing
from robustbench_jax.defences.training.wrapped import WrappedTraining
from robustbench_jax.keys import per_example, stream
from robustbench_jax.registry import register
from robustbench_jax.training import Train
from robustbench_jax.types import Classifier, Dataset, UserError, record


@register("training", "preprocessed", paper="guo2018", parts={"defence": "training", "by": "model_defence"})
@record
class Preprocessed(WrappedTraining):
    """by: a model defence that changes the image, e.g. jpeg(75)."""

    defence: Any = "standard"
    by: Any = "bit_depth"

    def __post_init__(self):
        if hasattr(self.by, "registered") and not isinstance(self.by, Preprocessing):
            name = self.by.registered[1]
            raise UserError(f"preprocessed: by = '{name}' must be one defence that changes images, e.g. jpeg(75)")

    def prepare(self, key: jax.Array, model: Classifier, data: Dataset, train: Train) -> "Preprocessed":
        by = self.by.fitted(stream(key, "by"), data)
        return super().prepare(key, model, data, train).replace(by=by)

    def perturb(self, key: jax.Array, model: Classifier, x: jax.Array, y: jax.Array, ids: jax.Array) -> jax.Array:
        x = self.defence.perturb(stream(key, "inner"), self.by.before(model), x, y, ids)
        return self._seen(stream(key, "by"), x)

    def objective(self, key, model, clean, x, logits, y, progress) -> jax.Array:
        clean = self._seen(stream(key, "by"), clean)
        return self.defence.objective(key, model, clean, x, logits, y, progress)

    def _seen(self, key: jax.Array, x: jax.Array) -> jax.Array:
        return seen(key, self.by, x, stochastic=bool(self.by.stochastic))


@partial(jax.jit, static_argnames="stochastic")
def seen(key: jax.Array, by: Preprocessing, x: jax.Array, *, stochastic: bool) -> jax.Array:
    """What `by` makes of images x [B, D]."""
    keys = per_example(key, jnp.arange(len(x)))
    return jax.vmap(lambda key, x: by.transform(key if stochastic else None, x))(keys, x)
