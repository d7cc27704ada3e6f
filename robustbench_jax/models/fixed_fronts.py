"""What a network makes of an image before its first weight is made once, not at every step of a training.

A network with a method `front(x)`, whose `model` does the rest and has all weights there are (models/scattering.py).
Shapes: N images, D input shape, F shape of what the front gives.
"""

import dataclasses
import math

import jax
import numpy as np

from robustbench_jax.models.features import each
from robustbench_jax.models.net import Net
from robustbench_jax.types import Classifier, Dataset

INSIDE = "model/"
LARGEST = 2**31  # bytes of all that fronts give, above which they work anew at every step


def fits_behind(model: Classifier, data: Dataset) -> bool:
    """Whether there is a front, and room for what it gives."""
    if not hasattr(model.net, "module") or not hasattr(model.net.module(model.params), "front"):
        return False
    given = jax.eval_shape(lambda x: _front(model, x), jax.ShapeDtypeStruct(data.x.shape[1:], np.float32))
    return 4 * len(data) * math.prod(given.shape) <= LARGEST


def behind_front(model: Classifier, data: Dataset) -> tuple[Classifier, Dataset]:
    """The network behind the front, and what it sees in place of the images: float32 [N, F]."""
    inner = Classifier(*Net.split(model.net.module(model.params).model))
    return inner, dataclasses.replace(data, x=np.asarray(each(_front, model, data.x)))


def before(model: Classifier, inner: Classifier) -> Classifier:
    """`model` with the arrays of what is behind its front."""
    return model.replace(params=model.params | {INSIDE + name: value for name, value in inner.params.items()})


def _front(model: Classifier, x: jax.Array) -> jax.Array:
    return model.net.module(model.params).front(x)
