"""random_networks(strength): images that went through image-to-image networks with weights at random.

Reference: DeepAugment, Hendrycks et al., ICCV 2021, arXiv:2006.16241, whose networks are trained ones with distorted
weights; here, as in the Noise2Net of the authors' program, they are small residual ones whose weights are drawn anew,
so that nothing has to be downloaded.
Departs from the paper: three layers of 3x3 convolutions, other weights for every image, each network's change scaled to
`strength` times the image's own standard deviation.
Shapes: B batch, D input shape [H, W, C].
"""

from functools import partial

import jax
import jax.numpy as jnp

from robustbench_jax.keys import per_example, stream
from robustbench_jax.registry import register
from robustbench_jax.training import TrainingDefence
from robustbench_jax.types import Classifier, UserError, record, require_positive, static


@register("training", "random_networks", paper="hendrycks2021")
@record
class RandomNetworks(TrainingDefence):
    """strength: at most; each image draws its own below. share: of images that are changed. width: channels inside."""

    strength: float = 0.5
    share: float = 0.5
    width: int = static(default=8)

    def __post_init__(self):
        require_positive("random_networks", strength=self.strength, width=self.width)
        if isinstance(self.share, int | float) and not 0 <= self.share <= 1:
            raise UserError(f"random_networks: share = {self.share} must be from 0 to 1")

    def perturb(self, key: jax.Array, model: Classifier, x: jax.Array, y: jax.Array, ids: jax.Array) -> jax.Array:
        return distorted(key, x, ids, self.strength, self.share, self.width)


@partial(jax.jit, static_argnames="width")
def distorted(key: jax.Array, x: jax.Array, ids: jax.Array, strength: float, share: float, width: int) -> jax.Array:
    """Images [B, D] in [0, 1], each through a network of its own; it depends on the image's id alone."""

    def one(key, x):
        change, sizes = x - jnp.mean(x), (x.shape[-1], width, width, x.shape[-1])
        for n, (ins, outs) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            kernel = jax.random.normal(stream(key, f"kernel {n}"), (9 * ins, outs)) / jnp.sqrt(9 * ins)
            change = _patches(change if n == 0 else jax.nn.gelu(change)) @ kernel
        change = (change - jnp.mean(change)) / (jnp.std(change) + 1e-6)
        amount = strength * jax.random.uniform(stream(key, "strength")) * jnp.std(x)
        chosen = jax.random.bernoulli(stream(key, "chosen"), share)
        return jnp.where(chosen, jnp.clip(x + amount * change, 0.0, 1.0), x)

    return jax.vmap(one)(per_example(key, ids), x)


def _patches(x: jax.Array) -> jax.Array:
    """[H, W, 9 C]: each pixel with its neighbours, black beyond the edge."""
    height, width = x.shape[:2]
    padded = jnp.pad(x, ((1, 1), (1, 1), (0, 0)))
    return jnp.concatenate([padded[i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=-1)
