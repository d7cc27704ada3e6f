"""lipschitz_cnn and lipschitz_mlp: networks that are 1-Lipschitz in L2 by construction, for certificates from margins.

lipschitz_cnn: SLL blocks, Araujo et al., ICLR 2023, arXiv:2303.03169. Departs from the paper: pixels are folded into
channels
instead of being subsampled, and the last layer works on the flattened image. lipschitz_mlp: AOL layers, Prach &
Lampert,
ECCV 2022, arXiv:2208.03160, with MaxMin between them. The constant counts the division by std before the first layer.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from robustbench_jax.models.blocks import Normalise, flatten, require_image
from robustbench_jax.models.lipschitz_layers import (
    AOLDense,
    SLLConv,
    SLLDense,
    UnitRows,
    max_min,
    pair_norms,
    space_to_depth,
)
from robustbench_jax.registry import register
from robustbench_jax.types import UserError, require_positive

GIVEN = ("shape", "classes", "rngs")


class Lipschitz(nnx.Module):
    """What both share: `constrained()` are the layers with a constant of their own, `head` the last one."""

    def pairs(self) -> jax.Array:
        """[C, C]: how fast f_i - f_j may change, for training; `models/lipschitz_bounds.py` has the proof in
        float64."""
        return pair_norms(self.head.rows()) / jnp.min(jnp.abs(self.normalise.std[...]))

    def before_head(self) -> float:
        """An upper bound of the constant of all that comes before the last layer, in float64."""
        std = np.abs(np.asarray(self.normalise.std[...], np.float64)).min()
        return math.prod(layer.constant() for layer in self.constrained()) / float(std)


@register("model", "lipschitz_cnn", paper="araujo2023", given=GIVEN)
class LipschitzCNN(Lipschitz):
    """Pixels are folded 2 x 2 into channels before each stage, the first stage's filled up with zeros to `channels`.

    blocks: SLL convolutions in each stage; inner: the channels inside them; dense: the values inside an SLL layer
    before
    the last one, 0 for none.
    """

    def __init__(
        self,
        channels: int = 16,
        inner: tuple = (32, 32),
        blocks: tuple = (2, 2),
        window: int = 3,
        dense: int = 32,
        *,
        shape,
        classes,
        rngs,
    ):
        require_image("lipschitz_cnn", shape, 2 ** len(blocks))
        require_positive("lipschitz_cnn", channels=channels, window=window)
        if len(inner) != len(blocks) or not blocks:
            raise UserError(f"lipschitz_cnn: inner = {inner} and blocks = {blocks} must name equally many stages")
        if channels < 4 * shape[-1]:
            raise UserError(f"lipschitz_cnn: channels = {channels} must be at least {4 * shape[-1]}")
        self.channels = channels
        self.normalise = Normalise(shape[-1])
        self.stages = nnx.List(
            nnx.List([SLLConv(channels * 4**i, inside, window, rngs=rngs) for _ in range(count)])
            for i, (inside, count) in enumerate(zip(inner, blocks, strict=True))
        )
        sides = [-(-side // 2 ** len(blocks)) for side in shape[:2]]
        features = math.prod(sides) * channels * 4 ** (len(blocks) - 1)
        self.dense = SLLDense(features, dense, rngs=rngs) if dense else None
        self.head = UnitRows(features, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = space_to_depth(self.normalise(x))
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, self.channels - x.shape[-1])])
        for i, stage in enumerate(self.stages):
            x = space_to_depth(x) if i else x
            for block in stage:
                x = block(x)
        x = flatten(x)
        return self.head(x if self.dense is None else self.dense(x))

    def constrained(self) -> list:
        return [block for stage in self.stages for block in stage] + [self.dense] * (self.dense is not None)


@register("model", "lipschitz_mlp", paper="prach2022", given=GIVEN)
class LipschitzMLP(Lipschitz):
    """widths: the hidden layers."""

    def __init__(self, widths: tuple = (256, 256), *, shape, classes, rngs):
        if not all(isinstance(width, int) and width > 0 for width in widths):
            raise UserError(f"lipschitz_mlp: widths = {widths} must be whole numbers of at least 1")
        self.normalise = Normalise(shape[-1])
        sizes = (math.prod(shape), *widths)
        self.hidden = nnx.List([AOLDense(a, b, rngs=rngs) for a, b in zip(sizes, widths, strict=False)])
        self.head = UnitRows(sizes[-1], classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = flatten(self.normalise(x))
        for layer in self.hidden:
            x = max_min(layer(x))
        return self.head(x)

    def constrained(self) -> list:
        return list(self.hidden)
