"""Features: what the layers of a model see of an image, for those who look inside.

Our own architectures all end in a linear `head`; its input are the features. A model behind a preprocessing has those
of the network inside, of what that sees. Any other function (ONNX, a function of the user's) shows its logits alone.
Shapes: N images, D input shape, F features, C classes.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.runtime import Runtime, by_slices, placed
from robustbench_jax.types import Classifier


def layer_inputs(model: Classifier, x: jax.Array) -> tuple[jax.Array, ...]:
    """What each layer of `model` is called with for one image x [D], in the order of the calls, the head's last."""
    if not hasattr(model.net, "layer_inputs"):
        return (model(x),)
    key = (model.key,) if model.stochastic else ()
    return model.net.layer_inputs(model.params, x, *key)


def features(model: Classifier, x: jax.Array) -> jax.Array:
    """The features [F] of one image x [D]: the input of the last layer, or the logits where there is none to see."""
    return layer_inputs(model, x)[-1].reshape(-1)


def features_of(model: Classifier, x: np.ndarray, runtime: Runtime = Runtime()) -> np.ndarray:
    """float64 [N, F] of images x uint8 [N, D]: the input of the last layer."""
    return np.asarray(each(features, model, x, runtime=runtime), np.float64)


def logits_of(model: Classifier, x: np.ndarray, runtime: Runtime = Runtime()) -> np.ndarray:
    """float64 [N, C] of images x uint8 [N, D]."""
    return np.asarray(each(_logits, model, x, runtime=runtime), np.float64)


def each(what: Callable, model: Classifier, x: np.ndarray, *more: Any, runtime: Runtime = Runtime()) -> Any:
    """what(model, x, *more) for images x uint8 [N, D], on the host; a randomised model draws image by image.

    what: a function of a module, compiled once; more: pytrees, traced.
    """
    width = runtime.fit(len(x))
    model, place = placed(model, runtime, width)
    return by_slices(lambda ids, part: _each(what, model, place(ids), place(part), more), [np.arange(len(x)), x], width)


def _logits(model: Classifier, x: jax.Array) -> jax.Array:
    return model(x)


@partial(jax.jit, static_argnames="what")
def _each(what: Callable, model: Classifier, ids: jax.Array, x: jax.Array, more: tuple) -> Any:
    def one(id, x):
        return what(model.keyed(jax.random.fold_in(jax.random.key(0), id)), x, *more)

    return jax.vmap(one)(ids, as_unit(x))
