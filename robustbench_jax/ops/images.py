"""Images in [0, 1]: one conversion for host and device.

XLA turns a division by 255 into a product with 1 / 255, which rounds differently from NumPy's division; a table of
the 256 levels gives the same bits everywhere, so an unchanged pixel is equal to the original one.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

LEVELS = np.arange(256, dtype=np.float32) / 255

Array = TypeVar("Array", np.ndarray, jax.Array)


def as_unit(x: Array) -> Array:
    """uint8 images as float32 in [0, 1]; float images as they are. A new array; NumPy stays on the host."""
    if x.dtype == np.uint8:
        return LEVELS[x] if isinstance(x, np.ndarray) else jnp.asarray(LEVELS)[x]
    return np.array(x, np.float32) if isinstance(x, np.ndarray) else x.astype(jnp.float32)
