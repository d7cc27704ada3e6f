"""augmix(severity): mixtures of chains of random augmentations, of which the model is to say what it says of the image.

Reference: Hendrycks et al., ICLR 2020, arXiv:1912.02781. An image becomes (1 - m) x + m sum_i w_i chain_i(x), with m
uniform (Beta(1, 1)), w uniform on the simplex and chains of one to `depth` operations that are no test corruption
(ops/augmentations.py). The loss is the cross-entropy of the image itself, plus `weight` times the Jensen-Shannon
divergence of the answers to the image and to two mixtures.
Shapes: B batch, D input shape [H, W, C], K classes.
"""

from functools import partial

import jax
import jax.numpy as jnp

from robustbench_jax.keys import per_example, stream
from robustbench_jax.ops.augmentations import COUNT, augmented
from robustbench_jax.registry import register
from robustbench_jax.training import TrainingDefence
from robustbench_jax.types import Classifier, UserError, record, require_positive, static

MIXTURES, LEAST = 2, 0.1


@register("training", "augmix", paper="hendrycks2020")
@record
class AugMix(TrainingDefence):
    """severity: operations have levels up to this, of 10. width: chains; depth: operations of a chain, at most. The
    paper has severity = 3, width = 3, depth = 3 and weight = 12.
    """

    severity: float = 3.0
    weight: float = 12.0
    width: int = static(default=3)
    depth: int = static(default=3)

    def __post_init__(self):
        require_positive("augmix", severity=self.severity, width=self.width, depth=self.depth)
        if isinstance(self.severity, int | float) and not LEAST <= self.severity <= 10:
            raise UserError(f"augmix: severity = {self.severity} must be from {LEAST} to 10")
        if isinstance(self.weight, int | float) and self.weight < 0:
            raise UserError(f"augmix: weight = {self.weight} must be at least 0")

    def perturb(self, key: jax.Array, model: Classifier, x: jax.Array, y: jax.Array, ids: jax.Array) -> jax.Array:
        mixtures = [
            mixed(stream(key, f"mixture {n}"), x, ids, self.severity, self.width, self.depth) for n in range(MIXTURES)
        ]
        return jnp.concatenate([x, *mixtures])

    def objective(self, key, model, clean, x, logits, y, progress) -> jax.Array:
        return self.loss(logits[: len(y)], y) + self.weight * disagreement(logits.reshape(-1, len(y), logits.shape[-1]))


def disagreement(logits: jax.Array) -> jax.Array:
    """The mean Jensen-Shannon divergence of answers [copies, B, K]."""
    log = jax.nn.log_softmax(logits)
    log_mean = jax.nn.logsumexp(log, axis=0) - jnp.log(len(log))
    return jnp.mean(jnp.sum(jnp.exp(log) * (log - log_mean), axis=-1))


@partial(jax.jit, static_argnames=("width", "depth"))
def mixed(key: jax.Array, x: jax.Array, ids: jax.Array, severity: float, width: int, depth: int) -> jax.Array:
    """One mixture of each image x [B, D] in [0, 1]; it depends on the image's id alone. The key is consumed."""
    return jax.vmap(partial(_mixed, severity=severity, width=width, depth=depth))(per_example(key, ids), x)


def _mixed(key: jax.Array, x: jax.Array, severity: float, width: int, depth: int) -> jax.Array:
    levels = jnp.round(255 * x)
    weights = jax.random.dirichlet(stream(key, "weights"), jnp.ones(width))
    share = jax.random.uniform(stream(key, "share"))
    keys = jax.random.split(stream(key, "chains"), width)
    chains = jax.vmap(lambda key: _chain(key, levels, severity, depth))(keys)
    return (1 - share) * x + share * jnp.tensordot(weights, chains, 1) / 255


def _chain(key: jax.Array, levels: jax.Array, severity: float, depth: int) -> jax.Array:
    count, out = jax.random.randint(stream(key, "count"), (), 1, depth + 1), levels
    for n, own in enumerate(jax.random.split(key, depth)):
        which = jax.random.randint(stream(own, "which"), (), 0, COUNT)
        level = jax.random.uniform(stream(own, "level"), minval=LEAST, maxval=severity)
        out = jnp.where(n < count, augmented(stream(own, "sign"), out, which, level), out)
    return out
