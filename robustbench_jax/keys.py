"""Random keys by name: a key is derived where it is used and never used twice."""

import zlib

import jax
import numpy as np


def stream(key: jax.Array, name: str) -> jax.Array:
    """The key of a named purpose: `stream(key, "attack")`. Names, not positions, so that adding one moves no other."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def per_example(key: jax.Array, ids: jax.Array) -> jax.Array:
    """One key for each example id [B]: what an example draws depends on its id, never on its neighbours."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, ids)


def generator(key: jax.Array) -> np.random.Generator:
    """For host code that draws. The key is consumed."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))
