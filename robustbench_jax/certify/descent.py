"""A quick attack on linear functions of the logits: signed gradient descent with shrinking steps.

Reference: Madry et al., ICLR 2018, arXiv:1706.06083 (PGD). Shapes: B points, D input shape, K rows, C classes.
"""

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.ops.bounds.regions import Region
from robustbench_jax.types import Classifier

FIRST, LAST = 0.25, 0.01  # length of steps, as a part of the region


def descended(
    model: Classifier, regions: Region, x: jax.Array, rows: jax.Array, offsets: jax.Array, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """(least [B], point [B, D]): the least value of max_k(rows[k] . logits + offsets[k]) met on the way from x [B, D].

    regions [B]; rows [B, K, C]; offsets [B, K]. The point lies in its region.
    """
    best, least = x, jnp.full(len(x), jnp.inf)
    for t in range(steps + 1):
        length = FIRST + (LAST - FIRST) * t / max(steps, 1)
        x, best, least = step(model, regions, rows, offsets, x, best, least, length)
    return np.asarray(least), np.asarray(best)


@jax.jit
def step(model: Classifier, regions: Region, rows, offsets, x, best, least, length):
    def total(x):
        values = jnp.max(jnp.einsum("bkc,bc->bk", rows, jax.vmap(model)(x)) + offsets, -1)
        return jnp.sum(values), values

    gradient, values = jax.grad(total, has_aux=True)(x)
    best = jnp.where((values < least).reshape(-1, *(1,) * (x.ndim - 1)), x, best)
    moved = x - length * (regions.high - regions.low) * jnp.sign(gradient)
    return jax.vmap(lambda region, z: region.inside(z))(regions, moved), best, jnp.fmin(values, least)
