"""gradient_matching(): poisons whose training gradient points where that of the mislabelled target does.

Reference: Geiping et al., ICLR 2021, arXiv:2009.02276 (Witches' Brew). The loss is 1 - cos between the gradient of the
target with the intended label and the mean gradient of the poisons, over all weights together, with the surrogate in
inference mode. Signed gradients go into Adam, whose step falls tenfold at 3/8, 5/8 and 7/8 of the steps. Of `restarts`
random starts the one with the smallest loss is taken; with several references losses are averaged.
Departs from the paper: all poisons of a target are one batch; augmentation is a random shift of the whole batch by at
most `shift` pixels at each step.
Shapes: P poisons, D = [H, W, C].
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robustbench_jax.attacks.poisoning.targeted import Targeted, within
from robustbench_jax.keys import stream
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, UserError, record, require_positive, static


@register("attack", "gradient_matching", threat="poisoning", access="poison_only", paper="geiping2021")
@record
class GradientMatching(Targeted):
    """eps: of each poison; steps of Adam with `learning_rate`, a share of eps; restarts; shift: in pixels."""

    eps: float = 16 / 255
    steps: int = static(default=250)
    learning_rate: float = 0.1
    restarts: int = static(default=1)
    shift: int = static(default=0)
    references: int = static(default=1)

    def __post_init__(self):
        require_positive("gradient_matching", eps=self.eps, steps=self.steps, restarts=self.restarts)
        if self.shift < 0:
            raise UserError(f"gradient_matching: shift = {self.shift} must be at least 0")

    def crafted(
        self,
        key: jax.Array,
        bases: jax.Array,
        target: jax.Array,
        intended: int,
        references: tuple[Classifier, ...],
        data: Dataset,
    ) -> jax.Array:
        wanted = tuple(
            training_gradient(model, jnp.asarray(target)[None], jnp.asarray([intended])) for model in references
        )
        best, least = jnp.asarray(bases), np.inf
        for restart in range(self.restarts):
            own = jax.random.fold_in(stream(key, "restart"), restart)
            x, loss = self._restart(own, bases, intended, references, wanted)
            best, least = (x, loss) if loss < least else (best, least)
        return best

    def _restart(self, key, bases, intended: int, references: tuple, wanted: tuple) -> tuple[jax.Array, float]:
        noise = jax.random.uniform(stream(key, "start"), bases.shape, minval=-self.eps, maxval=self.eps)
        x, y = within(bases + noise, bases, self.eps), jnp.full(len(bases), intended)
        adam = optax.scale_by_adam().init(x)
        ends = np.array([3, 5, 7]) / 8 * self.steps
        for step in range(self.steps):
            rate = self.learning_rate * self.eps * 10.0 ** -float(np.sum(step >= ends))
            moved = jax.random.randint(jax.random.fold_in(key, step), (2,), -self.shift, self.shift + 1)
            x, adam = matching_step(references, x, adam, bases, y, wanted, moved, self.eps, rate)
        return x, float(mismatch(references, x, y, wanted, jnp.zeros(2, int)))


def training_gradient(model: Classifier, x: jax.Array, y: jax.Array) -> Any:
    """Of the mean cross-entropy of x [B, D], by the trained weights."""

    def loss(weights):
        logits = model.net(model.params | weights, x)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))

    return jax.grad(loss)(model.net.trainable(model.params))


def alignment(a: Any, b: Any) -> jax.Array:
    """The cosine between two sets of gradients, over all of their arrays together."""
    dot = sum(jnp.vdot(a[name], b[name]) for name in a)
    sizes = [jnp.sqrt(sum(jnp.vdot(v, v) for v in it.values())) for it in (a, b)]
    return dot / jnp.maximum(sizes[0] * sizes[1], 1e-20)


@jax.jit
def mismatch(references, x, y, wanted, moved) -> jax.Array:
    x = jnp.roll(x, moved, (1, 2))
    return sum(1 - alignment(training_gradient(m, x, y), w) for m, w in zip(references, wanted, strict=True)) / len(
        wanted
    )


@jax.jit
def matching_step(references, x, adam, bases, y, wanted, moved, eps, rate):
    signs = jnp.sign(jax.grad(mismatch, argnums=1)(references, x, y, wanted, moved))
    change, adam = optax.scale_by_adam().update(signs, adam)
    return within(x - rate * change, bases, eps), adam
