"""mlp: dense layers with ReLU, or another activation, between them."""

import math

import jax
from flax import nnx

from robustbench_jax.models.activations import ACTIVATIONS, require_activation
from robustbench_jax.models.blocks import Dense, Normalise, flatten
from robustbench_jax.registry import register
from robustbench_jax.types import UserError


@register("model", "mlp", given=("shape", "classes", "rngs"), late=("activation",))
class MLP(nnx.Module):
    """widths: the hidden layers; activation: see models/activations.py. Weights begin as for ReLU, whatever it is."""

    def __init__(self, widths: tuple = (256, 256), activation: str = "relu", *, shape, classes, rngs):
        if not all(isinstance(width, int) and width > 0 for width in widths):
            raise UserError(f"mlp: widths = {widths} must be whole numbers of at least 1")
        self.activation = require_activation("mlp", activation)
        self.normalise = Normalise(shape[-1])
        sizes = (math.prod(shape), *widths)
        self.hidden = nnx.List([Dense(a, b, rngs=rngs) for a, b in zip(sizes, widths, strict=False)])
        self.head = Dense(sizes[-1], classes, last=True, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x, activate = flatten(self.normalise(x)), ACTIVATIONS[self.activation]
        for layer in self.hidden:
            x = activate(layer(x))
        return self.head(x)
