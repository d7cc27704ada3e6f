"""What every corruption is: a random change of one image whose strength a severity from 1 to 5 chooses.

Reference: Hendrycks & Dietterich, ICLR 2019, arXiv:1903.12261. Parameters are those that made CIFAR-10-C (images of 32
pixels), Tiny ImageNet-C (64) and ImageNet-C (224), whichever is nearest in size; lengths are in pixels, as there.
Departs from the paper: ImageNet-C was saved as JPEG of quality 85; here images are only rounded down to 8 bits.
Shapes: H height, W width, C channels. Written for one image [H, W, C] in [0, 1]; threats/corruption.py adds the batch.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SMALL, MIDDLE = 48, 120  # pixels of the longer side: up to here CIFAR-10-C's and Tiny ImageNet-C's parameters


class Corruption:
    """`corrupt(key, x, severity) -> x'`, in [0, 1]; severity is traced, so that another one compiles nothing.

    small, middle and large: the parameters by severity, of CIFAR-10-C, Tiny ImageNet-C and ImageNet-C; a number or a
    row of them each. changes: whether images come out other than they went in.
    """

    registered: tuple[str, str]
    facts: dict[str, Any]
    budgets = ("severity",)
    composite = False
    changes = True
    small: tuple
    middle: tuple
    large: tuple

    @property
    def access(self) -> str:
        return self.facts["access"]

    def table(self, x: jax.Array) -> np.ndarray:
        """[5] or [5, parameters]: the table that images of this size take."""
        side = max(x.shape[:2])
        return np.asarray(self.small if side <= SMALL else self.middle if side <= MIDDLE else self.large, np.float32)

    def chosen(self, x: jax.Array, severity: Any) -> jax.Array:
        """The parameters at one severity: a scalar or a vector to be unpacked."""
        return jnp.asarray(self.table(x))[severity - 1]

    def corrupt(self, key: jax.Array, x: jax.Array, severity: Any) -> jax.Array:
        raise NotImplementedError


def unit(x: jax.Array) -> jax.Array:
    """Clipped to [0, 1]."""
    return jnp.clip(x, 0.0, 1.0)


def whole_levels(x: jax.Array) -> jax.Array:
    """Rounded down to the 256 levels of 8 bits; a level that float32 missed by a hair stays what it is."""
    return jnp.floor(x * 255.0 + 1e-3) / 255.0


def power_of_two(n: int) -> int:
    """The smallest power of two of at least `n`."""
    return 1 << max(n - 1, 1).bit_length()
