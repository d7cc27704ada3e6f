"""Architectures: `build_model("resnet20", shape, classes, key)` makes a Classifier with fresh weights."""

import jax
from flax import nnx

from robustbench_jax.keys import stream
from robustbench_jax.models.net import Net
from robustbench_jax.registry import build
from robustbench_jax.types import Classifier


def build_model(text: str, shape: tuple[int, ...], classes: int, key: jax.Array) -> Classifier:
    """A freshly initialised model for images of `shape` [H, W, C]. The key is consumed.

    Raises UserError for an unknown architecture or argument, and for images that are too small for it.
    """
    rngs = nnx.Rngs(params=stream(key, "params"), dropout=stream(key, "dropout"))
    return Classifier(*Net.split(build("model", text, shape=tuple(shape), classes=classes, rngs=rngs)))
