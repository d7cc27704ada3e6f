"""smoothadv(sigma, eps): adversarial training of the smoothed model; noise and perturbation both.

Reference: Salman et al., NeurIPS 2019, arXiv:1906.04584. The attack is its SmoothAdv-PGD: it ascends, inside the L2
ball, -log of the mean softmax over noisy copies of an image, whose noise stays the same over the steps and is what the
model is then trained on.
Departs from the paper: eps is not warmed up over the first epochs; the attack sees the model in inference mode.
Shapes: B batch, D input shape, C classes.
"""

from functools import partial

import jax
import jax.numpy as jnp

from robustbench_jax.ops.balls import L2
from robustbench_jax.ops.smoothing import noises, soft_cross_entropy
from robustbench_jax.registry import register
from robustbench_jax.training import TrainingDefence
from robustbench_jax.types import Classifier, UserError, record, require_positive, static


@register("training", "smoothadv", paper="salman2019")
@record
class SmoothAdv(TrainingDefence):
    """sigma: the standard deviation of the noise; eps: the L2 radius of the attack; both on the scale of [0, 1].

    copies: of each image, with other noise. Each of the `steps` is 2 eps / steps long, as in the paper.
    """

    sigma: float = 0.25
    eps: float = 0.25
    steps: int = 2
    copies: int = static(default=2)

    def __post_init__(self):
        require_positive("smoothadv", sigma=self.sigma, steps=self.steps, copies=self.copies)
        if isinstance(self.eps, int | float) and self.eps < 0:
            raise UserError(f"smoothadv: eps = {self.eps} must be at least 0")

    def perturb(self, key: jax.Array, model: Classifier, x: jax.Array, y: jax.Array, ids: jax.Array) -> jax.Array:
        noise = noises(key, x, ids, self.sigma, self.copies)
        return jnp.concatenate(against_all(model, x, y, noise, self.eps, self.steps) + noise)

    def loss(self, logits: jax.Array, y: jax.Array) -> jax.Array:
        return super().loss(logits, jnp.tile(y, len(logits) // len(y)))


@jax.jit
def against_all(model: Classifier, x: jax.Array, y: jax.Array, noise: jax.Array, eps: float, steps: int) -> jax.Array:
    """x_adv [B, D] for noise [copies, B, D], by projected gradient ascent from x [B, D]."""
    ball = L2(eps)

    def loss(x_adv):
        logits = jax.vmap(model)(jnp.concatenate(x_adv + noise))
        return jnp.sum(soft_cross_entropy(logits.reshape(*noise.shape[:2], -1), y))

    def step(_, x_adv):
        ascent = jax.grad(loss)(x_adv)
        return jax.vmap(partial(ball.along, fraction=2 / steps))(x, x_adv, ascent)

    return jax.lax.fori_loop(0, steps, step, x)
