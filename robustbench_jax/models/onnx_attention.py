"""ONNX Attention (operator set 23 on), as PyTorch exports scaled_dot_product_attention.

Shapes: B batch, Q queries, K keys, H heads, d and e entries of a key and of a value.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.models.onnx_file import Node
from robustbench_jax.models.onnx_operators import operator
from robustbench_jax.types import UserError

KNOWN = ("is_causal", "kv_num_heads", "q_num_heads", "qk_matmul_output_mode", "scale", "softcap", "softmax_precision")


@operator("Attention")
def attention(node: Node, query, key, value, mask=None, *past):
    """[B, H, Q, e], or [B, Q, H e] where the inputs have three dimensions. Without a cache of keys."""
    if any(p is not None for p in past) or node.get("qk_matmul_output_mode", 0):
        raise UserError(f"{node} keeps keys and values from call to call, which no image classifier needs")
    unknown = [name for name, _ in node.attributes if name not in KNOWN]
    if unknown:
        raise UserError(f"{node}: its attribute {unknown[0]} is not supported")
    flat = query.ndim == 3
    query = _heads(query, node.get("q_num_heads"))
    key, value = (_heads(v, node.get("kv_num_heads")) for v in (key, value))
    repeats = query.shape[1] // key.shape[1]
    key, value = (jnp.repeat(v, repeats, 1) if repeats > 1 else v for v in (key, value))
    scores = jnp.einsum("bhqd,bhkd->bhqk", query, key) * node.get("scale", 1 / math.sqrt(query.shape[-1]))
    scores = _masked(node, scores, mask)
    seen = jnp.max(scores, -1, keepdims=True) > -np.inf  # a query that sees no key gives zeros
    weights = jnp.where(seen, jax.nn.softmax(jnp.where(seen, scores, 0), -1), 0)
    out = jnp.einsum("bhqk,bhke->bhqe", weights, value)
    return out.swapaxes(1, 2).reshape(*out.shape[0:3:2], -1) if flat else out


def _heads(x, count: int | None):
    """[B, Q, H d] -> [B, H, Q, d]."""
    return x if x.ndim == 4 else x.reshape(*x.shape[:2], count, -1).swapaxes(1, 2)


def _masked(node: Node, scores, mask):
    softcap = node.get("softcap", 0.0)
    if softcap:
        scores = softcap * jnp.tanh(scores / softcap)
    if mask is not None:
        missing = scores.shape[-1] - mask.shape[-1]
        boolean = mask.dtype == bool
        mask = jnp.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, missing)], constant_values=not boolean and -np.inf)
        scores = jnp.where(mask, scores, -np.inf) if boolean else scores + mask
    if node.get("is_causal", 0):
        scores = jnp.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -np.inf)
    return scores
