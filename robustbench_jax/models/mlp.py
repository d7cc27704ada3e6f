"""mlp: dense layers with ReLU between them."""

import math

import jax
from flax import nnx

from robustbench_jax.models.blocks import Dense, Normalise, flatten
from robustbench_jax.registry import register
from robustbench_jax.types import UserError


@register("model", "mlp", given=("shape", "classes", "rngs"))
class MLP(nnx.Module):
    """widths: the hidden layers."""

    def __init__(self, widths: tuple = (256, 256), *, shape, classes, rngs):
        if not all(isinstance(width, int) and width > 0 for width in widths):
            raise UserError(f"mlp: widths = {widths} must be whole numbers of at least 1")
        self.normalise = Normalise(shape[-1])
        sizes = (math.prod(shape), *widths)
        self.hidden = nnx.List([Dense(a, b, rngs=rngs) for a, b in zip(sizes, widths, strict=False)])
        self.head = Dense(sizes[-1], classes, last=True, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = flatten(self.normalise(x))
        for layer in self.hidden:
            x = jax.nn.relu(layer(x))
        return self.head(x)
