"""Gradients example by example, clipped and summed: what differentially private training adds up.

Two ways that give the same sums. "vmap" makes every gradient, for any architecture whose examples do not see each
other. "ghost" (Goodfellow, 2015, arXiv:1510.01799; Li et al., ICLR 2022, arXiv:2110.05679) makes none: of a dense layer
the squared norm of an example's gradient is |input|^2 |slope|^2 + |slope|^2, where the slope is the gradient by its
bias; a second backward pass with weighted losses sums the clipped gradients. That is for networks of dense layers.
Shapes: B batch, D input shape, U units.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from robustbench_jax.models.net import Net, Params
from robustbench_jax.types import UserError

METHODS = ("auto", "ghost", "vmap")
TINY = 1e-12


def require_separate(owner: str, net: Net, params: Params) -> None:
    """UserError for batch norm, through which examples see each other."""
    if any(isinstance(node, nnx.BatchNorm) for _, node in nnx.iter_graph(net.module(params))):
        raise UserError(
            f"{owner}: batch norm mixes the examples of a batch, so that no example's part can be bounded; take an "
            "architecture without it, e.g. mlp or cnn"
        )


def layers(net: Net, params: Params) -> tuple[str, ...] | None:
    """Names of the dense layers in the order of their calls, where there are no others; None else."""
    weights = net.trainable(params)
    names = sorted({name.rpartition("/")[0] for name in weights if name != "head"}, key=_order)
    expected = {f"{name}/{part}" for name in names for part in ("kernel", "bias")}
    dense = set(weights) == expected and all(weights[f"{name}/kernel"].ndim == 2 for name in names)
    return tuple(names) if dense and all(n == "head" or n.startswith("hidden/") for n in names) else None


def _order(name: str) -> tuple[int, int]:
    return (1, 0) if name == "head" else (0, int(name.rpartition("/")[2]) if name.rpartition("/")[2].isdigit() else 0)


def losses(net: Net, params: Params, weights: Params, x: jax.Array, y: jax.Array) -> jax.Array:
    """The cross-entropy [B] of images x [B, D]."""
    logits = net(params | weights, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y)


def clipped_sum(
    net: Net, params: Params, x: jax.Array, y: jax.Array, counted: jax.Array, norm: Any, method: str
) -> tuple[Params, jax.Array]:
    """(sum over the batch of gradients clipped to `norm`, norms [B] before clipping).

    x [B, K, D]: K augmented copies of each example, whose gradients are averaged before clipping; counted bool [B]:
    examples that are not padding. An example whose gradient is not finite counts as zero.
    """
    weights = net.trainable(params)
    if method == "ghost":
        sizes = _norms(net, params, weights, x[:, 0], y)
        factors = _factors(sizes, counted, norm)
        seen = jnp.where((factors > 0).reshape(-1, *[1] * (x.ndim - 2)), x[:, 0], 0.0)  # 0 times NaN is NaN
        return jax.grad(lambda w: jnp.sum(factors * losses(net, params, w, seen, y)))(weights), sizes

    def one(copies, label):
        every = jnp.full(len(copies), label)
        return jax.grad(lambda w: jnp.mean(losses(net, params, w, copies, every)))(weights)

    each = jax.vmap(one)(x, y)
    sizes = jnp.sqrt(sum(jnp.sum(v.reshape(len(y), -1) ** 2, -1) for v in each.values()))
    factors = _factors(sizes, counted, norm)
    return {
        k: jnp.einsum("b,b...->...", factors, jnp.where(_finite(v, factors), v, 0.0)) for k, v in each.items()
    }, sizes


def _finite(value: jax.Array, factors: jax.Array) -> jax.Array:
    return (factors > 0).reshape(-1, *[1] * (value.ndim - 1))


def _factors(sizes: jax.Array, counted: jax.Array, norm: Any) -> jax.Array:
    """[B]: by what each gradient is multiplied, after which its norm is at most `norm`."""
    return jnp.where(counted & jnp.isfinite(sizes), jnp.minimum(1.0, norm / jnp.maximum(sizes, TINY)), 0.0)


def _norms(net: Net, params: Params, weights: Params, x: jax.Array, y: jax.Array) -> jax.Array:
    """Norms [B] of the examples' gradients in networks of dense layers, without the gradients."""
    names = layers(net, params)
    biases = {f"{name}/bias": weights[f"{name}/bias"] for name in names}

    def slopes(x, y):
        return jax.grad(lambda b: losses(net, params, weights | b, x[None], y[None])[0])(biases)

    found = jax.vmap(slopes)(x, y)
    inputs = jax.vmap(lambda image: net.layer_inputs(params, image))(x)
    squared = 0.0
    for name, seen in zip(names, inputs, strict=True):
        slope = jnp.sum(found[f"{name}/bias"] ** 2, -1)
        squared += slope * (jnp.sum(seen.reshape(len(seen), -1) ** 2, -1) + 1)
    return jnp.sqrt(squared)
