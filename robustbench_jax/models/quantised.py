"""Quantised: a network of our own architectures whose weights and layer inputs have few levels.

Reference: Jacob et al., CVPR 2018, arXiv:1712.05877. What integer hardware would compute is computed in float32 from
the rounded values, as in its training ("fake quantisation").
Shapes: D input shape, C classes, L layers.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from robustbench_jax.models.net import Net, Params
from robustbench_jax.ops.straight_through import through


@dataclass(frozen=True)
class Quantised:
    """net of a Classifier with params (the rounded weights, ranges [L, 2] of the layers' inputs, the weights before).

    bits: of layer inputs. past: gradients pass the rounding, and stop where a range ends.
    """

    inner: Net
    bits: int
    past: bool = False

    @property
    def approximated(self) -> "Quantised":
        return replace(self, past=True)

    def twin(self, params: tuple) -> tuple[Net, Params]:
        return self.inner, params[2]

    def layer_inputs(self, params: tuple, x: jax.Array) -> tuple[jax.Array, ...]:
        return self.inner.layer_inputs(params[0], x)

    def __call__(self, params: tuple, x: jax.Array) -> jax.Array:
        weights, ranges, _ = params

        def tap(number: int, x: jax.Array) -> jax.Array:
            low, high = ranges[number]
            return levelled(x, low, high, self.bits, self.past)

        return self.inner.tapped(weights, x, tap)


def levelled(x: jax.Array, low: jax.Array, high: jax.Array, bits: int, past: bool) -> jax.Array:
    """x on 2^bits levels from low to high, of which one is exactly 0 where 0 lies between."""
    unit = jnp.maximum((high - low) / (2**bits - 1), 1e-12)
    zero = jnp.round(low / unit)
    rounded = unit * jnp.clip(jnp.round(x / unit), zero, zero + 2**bits - 1)
    return through(rounded, jnp.clip(x, low, high)) if past else rounded


def rounded(kernel: Any, bits: int) -> jax.Array:
    """A kernel [..., U] on 2^bits - 1 levels around 0, of a unit of its own for each output channel."""
    largest = jnp.max(jnp.abs(kernel), axis=tuple(range(kernel.ndim - 1)))
    most = 2 ** (bits - 1) - 1
    unit = jnp.maximum(largest, 1e-12) / most
    return jnp.clip(jnp.round(kernel / unit), -most, most) * unit
