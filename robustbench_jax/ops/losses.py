"""Losses of the logits of one example; higher is more adversarial for all of them.

Shapes: C classes; logits float32 [C], labels scalar int. All are finite with finite gradients for logits up
to 1e6; where classes tie, the gradient goes to the first. UserError where the model has too few classes.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.registry import register
from robustbench_jax.types import UserError

TINY = 1e-12  # as in the reference implementation of DLR


@register("loss", "cross_entropy")
def cross_entropy(logits: jax.Array, y: jax.Array) -> jax.Array:
    """-log softmax(logits)[y], as softplus(log-sum-exp of the other classes - z_y).

    The usual form subtracts two nearly equal numbers where the model is sure: from a margin of about 17 on,
    its float32 value and its gradient at z_y are 0. This one keeps both to full relative precision, up to 87.
    """
    _require_classes("cross_entropy", logits, 2, "a model with one logit a class")
    return jax.nn.softplus(jax.nn.logsumexp(_others(logits, y)) - logits[y])


@register("loss", "margin", paper="carlini2017")
def margin(logits: jax.Array, y: jax.Array) -> jax.Array:
    """max_{i != y} z_i - z_y: positive when misclassified (Carlini & Wagner, arXiv:1608.04644, f6)."""
    _require_classes("margin", logits, 2, "a model with one logit a class")
    return _best_other(logits, y) - logits[y]


@register("loss", "dlr", paper="croce2020")
def dlr(logits: jax.Array, y: jax.Array) -> jax.Array:
    """The margin over z_(1) - z_(3): unchanged when logits are rescaled (Croce & Hein, arXiv:2003.01690)."""
    _require_classes("dlr", logits, 3, "margin")
    top = jax.lax.top_k(logits, 3)[0]
    return (_best_other(logits, y) - logits[y]) / (top[0] - top[2] + TINY)


@register("loss", "targeted_dlr", paper="croce2020", given=("target",))
def targeted_dlr(logits: jax.Array, y: jax.Array, target: jax.Array | None = None) -> jax.Array:
    """(z_target - z_y) over z_(1) - (z_(3) + z_(4)) / 2 (Croce & Hein, arXiv:2003.01690)."""
    if target is None:
        raise UserError("loss 'targeted_dlr' needs a target class, and this attack gives it none: use dlr")
    _require_classes("targeted_dlr", logits, 4, "margin")
    top = jax.lax.top_k(logits, 4)[0]
    return (logits[target] - logits[y]) / (top[0] - 0.5 * (top[2] + top[3]) + TINY)


def kl(logits: jax.Array, reference: jax.Array) -> jax.Array:
    """KL(softmax(reference) || softmax(logits)) in nats; `reference` [C] are logits as well (TRADES)."""
    p = jax.nn.log_softmax(reference)
    return jnp.sum(jnp.exp(p) * (p - jax.nn.log_softmax(logits)))


def _others(logits: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.where(jnp.arange(logits.shape[-1]) == y, -jnp.inf, logits)


def _best_other(logits: jax.Array, y: jax.Array) -> jax.Array:
    return jax.lax.top_k(_others(logits, y), 1)[0][0]


def _require_classes(name: str, logits: jax.Array, least: int, instead: str) -> None:
    if logits.shape[-1] < least:
        found = logits.shape[-1]
        raise UserError(f"loss '{name}' needs at least {least} classes; the model has {found}: use {instead}")
