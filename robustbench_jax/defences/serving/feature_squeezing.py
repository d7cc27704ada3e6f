"""feature_squeezing(squeezers): no answer where a simpler version of the image gets another one.

Reference: Xu et al., NDSS 2018, arXiv:1704.01155. The score is the largest L1 distance between the probabilities of the
image and those of its squeezed versions: from 0 to 2. Broken by attacks that know it: He et al., WOOT 2017,
arXiv:1706.04701.
Shapes: D input shape, S squeezers. Written for one example; S + 1 forward passes, of which the model needs one anyway.
"""

from typing import Any

import jax
import jax.numpy as jnp

from robustbench_jax.defences.model.preprocessing import Preprocessing
from robustbench_jax.defences.serving.detector import Detector, Score
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, UserError, record


@record
class Moved(Score):
    """How far squeezing moves the probabilities."""

    squeezers: Any  # a tuple of S preprocessings

    def __call__(self, model: Classifier, x: jax.Array) -> jax.Array:
        return _largest(model, x, [squeezer.transform(None, x) for squeezer in self.squeezers])

    def past(self, model: Classifier, x: jax.Array) -> jax.Array:
        return _largest(model, x, [squeezer.past(None, x) for squeezer in self.squeezers])


@register("model_defence", "feature_squeezing", paper="xu2018", parts={"squeezers": "model_defence"}, obfuscates=True)
@record
class FeatureSqueezing(Detector):
    """squeezers: model defences that change the image and draw nothing. fpr, images: see Detector."""

    squeezers: tuple = ("bit_depth(5)", "median_filter(2)")
    fpr: float = 0.05
    images: int = 5000

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.squeezers, tuple) or not self.squeezers:
            raise UserError("feature_squeezing needs a list of squeezers, e.g. [bit_depth(5), median_filter(2)]")
        for squeezer in self.squeezers:
            fits = isinstance(squeezer, str) or (isinstance(squeezer, Preprocessing) and not squeezer.stochastic)
            if not fits:
                name = squeezer.registered[1]
                raise UserError(f"feature_squeezing: {name} is no squeezer: it must change the image and draw nothing")

    def fit(self, key: jax.Array, classifier: Classifier, data: Dataset) -> Moved:
        keys = jax.random.split(key, len(self.squeezers))
        return Moved(tuple(it.fitted(own, data) for it, own in zip(self.squeezers, keys, strict=True)))


def _largest(model: Classifier, x: jax.Array, squeezed: list[jax.Array]) -> jax.Array:
    probabilities = jax.nn.softmax(model(x))
    away = [jnp.sum(jnp.abs(probabilities - jax.nn.softmax(model(z)))) for z in squeezed]
    return jnp.max(jnp.stack(away))
