"""adversarial_noise(size): noise from a generator that is trained against the model.

Reference: Rusak et al., ECCV 2020, arXiv:2001.06057 (ANT). The generator is a network of 1x1 convolutions: it turns
Gaussian noise at a pixel into noise there, whatever the image; it ascends the loss that the model descends, and one
backward pass serves both.
Departs from the paper: a share of each batch is noisy and the rest as it is; there is no replay of earlier generators;
the noise has its size in every image as a root mean square.
Shapes: B batch, D input shape [H, W, C].
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from robustbench_jax.keys import stream
from robustbench_jax.registry import register
from robustbench_jax.training import TrainingDefence
from robustbench_jax.types import UserError, record, require_positive, static

GENERATOR = 0  # the seed of its first weights


@register("training", "adversarial_noise", paper="rusak2020")
@record
class AdversarialNoise(TrainingDefence):
    """size: the root mean square of the noise, on the scale of [0, 1]. share: of a batch that is noisy. width: of the
    generator's two hidden layers; rate: its learning rate.
    """

    size: float = 0.2
    share: float = 0.5
    rate: float = 1e-3
    width: int = static(default=16)

    def __post_init__(self):
        require_positive("adversarial_noise", size=self.size, rate=self.rate, width=self.width)
        if isinstance(self.share, int | float) and not 0 < self.share <= 1:
            raise UserError(f"adversarial_noise: share = {self.share} must be above 0 and at most 1")

    def remember(self, x: jax.Array) -> Any:
        """(the generator's weights, the state of its optimiser)."""
        sizes = x.shape[-1], self.width, self.width, x.shape[-1]
        keys = jax.random.split(jax.random.key(GENERATOR), 3)
        pairs = zip(keys, sizes[:-1], sizes[1:], strict=True)
        generator = [jax.random.normal(key, (a, b)) / jnp.sqrt(a) for key, a, b in pairs]
        return generator, optax.adam(self.rate).init(generator)

    def combine(self, key: jax.Array, objective: Callable, weights: Any, batch: tuple, memory: Any) -> tuple:
        (clean, _, y), (generator, optimiser) = batch, memory
        noise = jax.random.normal(stream(key, "noise"), clean.shape)
        chosen = (jnp.arange(len(clean)) < self.share * len(clean))[:, None, None, None]

        def both(weights, generator):
            noisy = jnp.clip(clean + self.size * generated(generator, noise), 0.0, 1.0)
            return objective(weights, (clean, jnp.where(chosen, noisy, clean), y))

        (gradients, ascent), aux = jax.grad(both, argnums=(0, 1), has_aux=True)(weights, generator)
        changes, optimiser = optax.adam(self.rate).update(jax.tree.map(jnp.negative, ascent), optimiser, generator)
        return gradients, aux, (optax.apply_updates(generator, changes), optimiser)


def generated(generator: list[jax.Array], noise: jax.Array) -> jax.Array:
    """Noise [B, D] of root mean square 1 in each image, made of Gaussian noise [B, D]."""
    out = noise
    for layer in generator[:-1]:
        out = jax.nn.relu(out @ layer)
    out = out @ generator[-1]
    return out / jnp.sqrt(jnp.mean(out**2, (1, 2, 3), keepdims=True) + 1e-12)
