"""Gradients example by example, clipped and summed: what differentially private training adds up.

Two ways that give the same sums. "vmap" makes every gradient, weight by weight. "ghost" (Goodfellow, 2015,
arXiv:1510.01799; Li et al., ICLR 2022, arXiv:2110.05679) makes none where it can: one backward pass gives what each
convolution and matrix product meets, and its slopes. The squared norm of an example's gradient is then
sum_st (x_s . x_t) (g_s . g_t) over the places s, t of the kernel, or that of the gradient itself where this costs less
(Bu et al., NeurIPS 2022, arXiv:2205.10683), and the clipped sum is one product with slopes that are scaled, without a
second pass (Bu et al., ICML 2023, arXiv:2210.00038). Weights that are neither (biases, scales of norms) and those in
loops or used twice have their gradients made one by one.
Shapes: B batch, K copies, D input shape, C classes; T places, a numbers in, b out (weight_uses.py).
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from robustbench_jax.models.net import Net, Params
from robustbench_jax.models.weight_uses import Product, products, run
from robustbench_jax.types import UserError

METHODS = ("auto", "ghost", "vmap")
TINY = 1e-12
WORTH = 32  # operations that one entry of a gradient, written and read again, is worth


def require_separate(owner: str, net: Net, params: Params) -> None:
    """UserError for batch norm, through which examples see each other."""
    if any(isinstance(node, nnx.BatchNorm) for _, node in nnx.iter_graph(net.module(params))):
        raise UserError(
            f"{owner}: batch norm mixes the examples of a batch, so that no example's part can be bounded; take an "
            "architecture without it, e.g. mlp or cnn"
        )


def losses(net: Net, params: Params, weights: Params, x: jax.Array, y: jax.Array) -> jax.Array:
    """The cross-entropy [B] of images x [B, D]."""
    logits = net(params | weights, x)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y)


def clipped_sum(
    net: Net, params: Params, x: jax.Array, y: jax.Array, counted: jax.Array, norm: Any, method: str
) -> tuple[Params, jax.Array, jax.Array]:
    """(sum over the batch of gradients clipped to `norm`, norms [B] before clipping, logits [B, C] of the first copy).

    x [B, K, D]: K augmented copies of each example, whose gradients are averaged before clipping; counted bool [B]:
    examples that are not padding; method: one of METHODS. An example whose gradient is not finite counts as zero.
    """
    weights = net.trainable(params)
    known = {} if method == "vmap" else products(net, params, jax.ShapeDtypeStruct(x.shape[1:], x.dtype))
    taps = {name: jnp.zeros(product.slope, x.dtype) for name, product in known.items()}
    others = {name: value for name, value in weights.items() if name not in known}

    def one(copies, label):
        def loss(others, taps):
            logits, seen = run(net, params | others, copies, taps)
            every = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.full(len(copies), label))
            return jnp.mean(every), (seen, logits[0])

        return jax.grad(loss, (0, 1), has_aux=True)(others, taps)

    (each, slopes), (seen, logits) = jax.vmap(one)(x, y)
    made = {name: jax.vmap(p.gradient)(seen[name], slopes[name]) for name, p in known.items() if not _in_pairs(p)}
    paired = {name: product for name, product in known.items() if name not in made}
    squared = sum(_squares(value) for value in (each | made).values())
    squared += sum(_pairs(product, seen[name], slopes[name]) for name, product in paired.items())
    sizes = jnp.sqrt(squared)
    factors = _factors(sizes, counted, norm)
    summed = {name: jnp.einsum("n,n...->...", factors, _kept(value, factors)) for name, value in (each | made).items()}
    for name, product in paired.items():
        scaled = _kept(slopes[name], factors) * _beside(factors, slopes[name])
        summed[name] = product.total(_kept(seen[name], factors), scaled)
    return summed, sizes, logits


def _in_pairs(product: Product) -> bool:
    """Whether norms are made place by place, and no gradient is."""
    places, ins, outs = product.sizes
    return places == 1 or places**2 * (ins + outs) < WORTH * ins * outs


def _pairs(product: Product, seen: jax.Array, slopes: jax.Array) -> jax.Array:
    """Squared norms [B] of gradients that are not made."""
    x, g = jax.vmap(product.rows)(seen, slopes)
    if product.sizes[0] == 1:
        return _squares(x) * _squares(g)
    products = jnp.einsum("nsa,nta->nst", x, x) * jnp.einsum("nsb,ntb->nst", g, g)
    return jnp.maximum(jnp.sum(products, (1, 2)), 0.0)


def _squares(value: jax.Array) -> jax.Array:
    return jnp.sum(value.reshape(len(value), -1) ** 2, -1)


def _factors(sizes: jax.Array, counted: jax.Array, norm: Any) -> jax.Array:
    """[B]: by what each gradient is multiplied, after which its norm is at most `norm`."""
    return jnp.where(counted & jnp.isfinite(sizes), jnp.minimum(1.0, norm / jnp.maximum(sizes, TINY)), 0.0)


def _kept(value: jax.Array, factors: jax.Array) -> jax.Array:
    """Zero where the factor is: 0 times NaN is NaN."""
    return jnp.where(_beside(factors, value) > 0, value, 0.0)


def _beside(factors: jax.Array, value: jax.Array) -> jax.Array:
    return factors.reshape(-1, *[1] * (value.ndim - 1))
