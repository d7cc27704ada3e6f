"""meta_poison(): poisons after which a few steps of training, looked through, end at the intended class of the target.

Reference: Huang et al., NeurIPS 2020, arXiv:2004.00225 (MetaPoison). The loss of the target with the intended label is
taken after `unroll` steps of gradient descent on the poisons and a batch of clean images, and differentiated through
them. Between the attacker's steps each surrogate goes on learning on the poisoned data; after HORIZON steps it begins
anew where it was.
Departs from the paper: surrogates begin trained, not at staggered epochs; poisons move in a box by signed Adam steps,
as in gradient_matching, without its change of colours; all poisons are one batch.
Shapes: P poisons, D = [H, W, C].
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robustbench_jax.attacks.poisoning.targeted import Targeted, within
from robustbench_jax.keys import stream
from robustbench_jax.ops.images import as_unit
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, record, require_positive, static

HORIZON = 20
CLEAN = 128  # images of a clean batch


@register("attack", "meta_poison", threat="poisoning", access="poison_only", paper="huang2020")
@record
class MetaPoison(Targeted):
    """eps: of each poison; steps of Adam with `learning_rate`, a share of eps; unroll: steps of training, of
    `inner_rate`, that are looked through; references: surrogates.
    """

    eps: float = 16 / 255
    steps: int = static(default=120)
    learning_rate: float = 0.1
    unroll: int = static(default=2)
    inner_rate: float = 0.1
    references: int = static(default=2)

    def __post_init__(self):
        require_positive(
            "meta_poison", eps=self.eps, steps=self.steps, unroll=self.unroll, inner_rate=self.inner_rate,
            references=self.references,
        )  # fmt: skip

    def crafted(
        self,
        key: jax.Array,
        bases: jax.Array,
        target: jax.Array,
        intended: int,
        references: tuple[Classifier, ...],
        data: Dataset,
    ) -> jax.Array:
        noise = jax.random.uniform(stream(key, "start"), bases.shape, minval=-self.eps, maxval=self.eps)
        x, adam = within(bases + noise, bases, self.eps), optax.scale_by_adam().init(bases)
        first = [model.net.trainable(model.params) for model in references]
        ends, weights = np.array([3, 5, 7]) / 8 * self.steps, first
        for step in range(self.steps):
            weights = first if step % HORIZON == 0 else weights
            drawn = np.asarray(jax.random.choice(jax.random.fold_in(key, step), len(data), (min(CLEAN, len(data)),)))
            clean = as_unit(data.x[drawn]), jnp.asarray(data.y[drawn])
            rate = self.learning_rate * self.eps * 10.0 ** -float(np.sum(step >= ends))
            given = (target, jnp.asarray(intended), *clean, self.inner_rate)
            slopes, weights = zip(
                *(_look(m, w, x, *given, unroll=self.unroll) for m, w in zip(references, weights, strict=True)),
                strict=True,
            )
            change, adam = optax.scale_by_adam().update(jnp.sign(sum(slopes)), adam)
            x = within(x - rate * change, bases, self.eps)
        return x


def learnt(model: Classifier, weights: Any, x: jax.Array, y: jax.Array, rate: Any) -> Any:
    """The weights after one step of gradient descent on the mean cross-entropy of x [B, D]."""

    def loss(weights):
        logits = model.net(model.params | weights, x)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))

    return jax.tree.map(lambda w, g: w - rate * g, weights, jax.grad(loss)(weights))


@partial(jax.jit, static_argnames="unroll")
def _look(model, weights, poisons, target, intended, clean, labels, rate, *, unroll: int):
    """(gradient by the poisons [P, D], the weights one step on)."""
    y = jnp.concatenate([labels, jnp.full(len(poisons), intended, labels.dtype)])

    def after(poisons):
        moved, x = weights, jnp.concatenate([clean, poisons])
        for _ in range(unroll):
            moved = learnt(model, moved, x, y, rate)
        logits = model.net(model.params | moved, target[None])
        return optax.softmax_cross_entropy_with_integer_labels(logits, intended[None])[0]

    return jax.grad(after)(poisons), learnt(model, weights, jnp.concatenate([clean, poisons]), y, rate)
