"""beatrix(powers): no answer where features go together as they never do in clean images of the class.

Reference: Ma et al., NDSS 2023, arXiv:2209.11715: Gram matrices of a layer's channels, of the features to the powers
1 to P and then their P-th roots, hold how features go together; of each entry the median and the median absolute
deviation over clean images of a class are kept. The score is by how much entries lie outside median +- k MAD, in MADs.
Departs from the paper: the class is the one that the model says; at most CHANNELS channels, evenly spaced, are looked
at; entries that do not vary are left out; one threshold for all classes, from held-out images.
Shapes: P powers, U channels, E = U (U + 1) / 2 entries, C classes.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.defences.serving.detector import Detector, Score, by_class
from robustbench_jax.models.features import each, layer_inputs
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, record, require_positive, static

CHANNELS = 32
ENOUGH = 3  # clean images of a class


@record
class GramDeviation(Score):
    """middle, spread [C, P * E]: medians and MADs, infinite where an entry does not vary; width: k; powers [P]."""

    middle: jax.Array
    spread: jax.Array
    width: Any
    powers: jax.Array

    def __call__(self, model: Classifier, x: jax.Array) -> jax.Array:
        label = jnp.argmax(model(x))
        away = jnp.abs(grams(model, x, self.powers) - self.middle[label]) / self.spread[label]
        return jnp.mean(jnp.maximum(away - self.width, 0.0))


@register("model_defence", "beatrix", paper="ma2023")
@record
class Beatrix(Detector):
    """powers: P; width: k, how many MADs are not counted. fpr, images: see Detector."""

    powers: int = static(default=4)
    width: float = 3.0
    fpr: float = 0.05
    images: int = 5000

    def __post_init__(self):
        super().__post_init__()
        require_positive("beatrix", powers=self.powers, width=self.width)

    def fit(self, key: jax.Array, classifier: Classifier, data: Dataset) -> GramDeviation:
        by_class("beatrix", data, ENOUGH)
        powers = jnp.arange(1.0, self.powers + 1)
        values = np.asarray(each(grams, classifier, data.x, powers), np.float64)
        middle = np.stack([np.median(values[data.y == label], axis=0) for label in range(len(data.classes))])
        spread = np.stack(
            [np.median(np.abs(values[data.y == label] - middle[label]), axis=0) for label in range(len(data.classes))]
        )
        least = 1e-6 * np.maximum(np.abs(middle), 1e-6)
        spread = np.where(spread > least, spread, np.inf)
        return GramDeviation(
            jnp.asarray(middle, jnp.float32), jnp.asarray(spread, jnp.float32), np.float32(self.width), powers
        )


def grams(model: Classifier, x: jax.Array, powers: jax.Array) -> jax.Array:
    """[P * E]: signed roots of the Gram matrices of the last layer with positions, or of the features, of x [D]."""
    seen = layer_inputs(model, x)
    wide = [layer for layer in seen[1:] if layer.ndim > 1] or [seen[-1].reshape(1, -1)]
    values = wide[-1].reshape(-1, wide[-1].shape[-1])
    step = -(-values.shape[-1] // CHANNELS)
    values = values[:, ::step]
    rows, columns = np.triu_indices(values.shape[-1])

    def one(power):
        raised = jnp.sign(values) * jnp.maximum(jnp.abs(values), 1e-6) ** power
        gram = (raised.T @ raised / len(values))[rows, columns]
        return jnp.sign(gram) * jnp.maximum(jnp.abs(gram), 1e-24) ** (1 / power)

    return jax.vmap(one)(powers).ravel()
