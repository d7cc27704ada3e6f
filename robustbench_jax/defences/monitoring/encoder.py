"""What monitors compare images by: a few numbers in which similar images are near to each other.

Reference for "pixels": Johnson & Lindenstrauss 1984: a random projection of the pixels keeps their distances, up to
about 1 / sqrt(2 DIMENSIONS), and its dimension does not grow with the image. "features" are those of the watched model.
Shapes: D input shape, F numbers.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.keys import generator
from robustbench_jax.models.features import features
from robustbench_jax.ops.images import LEVELS, as_unit
from robustbench_jax.registry import nearest
from robustbench_jax.types import Classifier, UserError

KINDS = ("pixels", "features")
DIMENSIONS = 64


@dataclass(frozen=True, eq=False)
class Encoder:
    """matrix [size of D, F] of a projection, or else the model whose features are taken."""

    matrix: np.ndarray | None = None
    model: Any = None

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """float32 [F] of an image x uint8 [D]."""
        if self.matrix is not None:
            return LEVELS[x].ravel() @ self.matrix
        return np.asarray(_features(self.model, x))

    def many(self, x: np.ndarray) -> np.ndarray:
        """float32 [N, F] of images x uint8 [N, D], one after another."""
        return np.stack([self(image) for image in x])


def encoder(owner: str, kind: str, key: jax.Array, model: Classifier, shape: tuple[int, ...]) -> Encoder:
    """The encoder of that kind for images of that shape. The key is consumed."""
    require_kind(owner, kind)
    if kind == "features":
        return Encoder(model=model.keyed(key))
    size = int(np.prod(shape))
    matrix = generator(key).normal(0, 1 / np.sqrt(DIMENSIONS), (size, DIMENSIONS)).astype(np.float32)
    return Encoder(matrix=matrix)


def require_kind(owner: str, kind: str) -> None:
    if kind not in KINDS:
        raise UserError(f"{owner}: no encoder '{kind}'{nearest(kind, KINDS)}")


@jax.jit
def _features(model: Classifier, x: jax.Array) -> jax.Array:
    return features(model, as_unit(x)).astype(jnp.float32)
