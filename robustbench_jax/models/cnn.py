"""cnn: convolutions and dense layers with ReLU, or another activation, between them.

The small networks of the certified literature, all with ReLU, are made of it.
cnn_a and cnn_b: Dathathri et al., NeurIPS 2020, arXiv:2010.11645 (SDP-FO), as used by Wang et al., NeurIPS 2021,
arXiv:2103.06624 (beta-CROWN). ibp_small, ibp_medium, ibp_large: Gowal et al., 2018, arXiv:1810.12715, table 1.
"""

import jax
import numpy as np
from flax import nnx

from robustbench_jax.models.activations import ACTIVATIONS, require_activation
from robustbench_jax.models.blocks import Conv, Dense, Normalise, flatten, require_image
from robustbench_jax.registry import register
from robustbench_jax.types import UserError

GIVEN = ("shape", "classes", "rngs")


@register("model", "cnn", given=GIVEN, late=("activation",))
class CNN(nnx.Module):
    """convolutions: (channels, window, stride) each, padded by `padding` zeros on every side, or by a fourth entry
    (before, after) of its own; dense: the hidden layers after them; activation: as of `mlp`.
    """

    def __init__(
        self,
        convolutions: tuple = ((16, 3, 1), (32, 4, 2), (64, 4, 2)),
        dense: tuple = (128,),
        padding: int = 1,
        activation: str = "relu",
        *,
        shape,
        classes,
        rngs,
    ):
        require_image("cnn", shape, 4)
        if not all(isinstance(c, tuple) and len(c) in (3, 4) for c in convolutions):
            raise UserError(f"cnn: convolutions = {convolutions} must be a list of [channels, window, stride]")
        self.activation = require_activation("cnn", activation)
        self.normalise = Normalise(shape[-1])
        sides, channels = np.array(shape[:2]), shape[-1]
        stack = []
        for outs, window, stride, *own in convolutions:
            pads = own[0] if own else (padding, padding)
            stack.append(Conv(channels, outs, window, stride=stride, padding=(pads, pads), rngs=rngs))
            sides, channels = (sides + sum(pads) - window) // stride + 1, outs
            if sides.min() < 1:
                raise UserError(f"cnn: images of {list(shape)} are too small for {len(convolutions)} convolutions")
        sizes = (int(sides.prod()) * channels, *dense)
        self.convolutions = nnx.List(stack)
        self.dense = nnx.List([Dense(a, b, rngs=rngs) for a, b in zip(sizes, dense, strict=False)])
        self.head = Dense(sizes[-1], classes, last=True, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x, activate = self.normalise(x), ACTIVATIONS[self.activation]
        for layer in self.convolutions:
            x = activate(layer(x))
        x = flatten(x)
        for layer in self.dense:
            x = activate(layer(x))
        return self.head(x)


@register("model", "cnn_a", paper="dathathri2020", given=GIVEN)
def cnn_a(*, shape, classes, rngs) -> CNN:
    return CNN(((16, 4, 2), (32, 4, 2)), (100,), shape=shape, classes=classes, rngs=rngs)


@register("model", "cnn_b", paper="dathathri2020", given=GIVEN)
def cnn_b(*, shape, classes, rngs) -> CNN:
    return CNN(((32, 5, 2, (1, 2)), (128, 4, 2)), (250,), shape=shape, classes=classes, rngs=rngs)


@register("model", "ibp_small", paper="gowal2018", given=GIVEN)
def ibp_small(*, shape, classes, rngs) -> CNN:
    return CNN(((16, 4, 2), (32, 4, 1)), (100,), 0, shape=shape, classes=classes, rngs=rngs)


@register("model", "ibp_medium", paper="gowal2018", given=GIVEN)
def ibp_medium(*, shape, classes, rngs) -> CNN:
    return CNN(((32, 3, 1), (32, 4, 2), (64, 3, 1), (64, 4, 2)), (512, 512), 0, shape=shape, classes=classes, rngs=rngs)


@register("model", "ibp_large", paper="gowal2018", given=GIVEN)
def ibp_large(*, shape, classes, rngs) -> CNN:
    return CNN(
        ((64, 3, 1), (64, 3, 1), (128, 3, 2), (128, 3, 1), (128, 3, 1)),
        (512,),
        0,
        shape=shape,
        classes=classes,
        rngs=rngs,
    )
