"""Features: what the layers of a model see of an image, for those who look inside.

Our own architectures all end in a linear `head`; its input are the features. A model behind a preprocessing has those
of the network inside, of what that sees. Any other function (ONNX, a function of the user's) shows its logits alone.
Shapes: D input shape, F features.
"""

import jax

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
