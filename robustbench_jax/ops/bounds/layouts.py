"""Where the entries of an array go, as linear maps: what maxima and products of matrices are rewritten with."""

import jax
import jax.numpy as jnp
import numpy as np

Shape = tuple[int, ...]


def last(z: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """[..., K]: the entries along these axes, side by side."""
    kept = [n for i, n in enumerate(z.shape) if i not in axes]
    return jnp.moveaxis(z, axes, range(-len(axes), 0)).reshape(*kept, -1)


def windows(z: jax.Array, window_dimensions: Shape, window_strides: Shape, padding: tuple) -> jax.Array:
    """[..., K]: the entries of each window; outside of the image its nearest entry, which is in the window as well."""
    z = jnp.pad(z, padding, mode="edge")
    counts = [(n - w) // s + 1 for n, w, s in zip(z.shape, window_dimensions, window_strides, strict=True)]
    seen = [
        z[tuple(slice(o, o + (c - 1) * s + 1, s) for o, c, s in zip(at, counts, window_strides, strict=True))]
        for at in np.ndindex(*window_dimensions)
    ]
    return jnp.stack(seen, axis=-1)


def laid_out(z: jax.Array, own: tuple, every: tuple, shape: Shape) -> jax.Array:
    """z, with axes `own`, broadcast to the axes `every`."""
    order = sorted(range(len(own)), key=lambda i: every.index(own[i]))
    z = jnp.transpose(z, order)
    missing = [i for i, name in enumerate(every) if name not in own]
    return jnp.broadcast_to(jnp.expand_dims(z, missing), shape)
