"""adaptive_blend(): a faint part of a picture in training, some of it with the right label; all of it at test time.

Reference: Qi et al., ICLR 2023 (Revisiting the Assumption of Latent Separability). Poisons carry a random half of the
picture's tiles and the attacker's label; covers carry such halves too and keep their label.
"""

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.attacks.backdoor.blended import Blend, noise_picture, require_shares
from robustbench_jax.attacks.backdoor.covered import Covered
from robustbench_jax.keys import stream
from robustbench_jax.poisons import Trigger
from robustbench_jax.registry import register
from robustbench_jax.types import Dataset, record, static

TILES = 4  # on a side


@record
class Partial(Trigger):
    """A Blend of which each image gets a random share of the tiles."""

    blend: Blend
    share: float
    target: int
    tiles: int = static()
    relabels = "all_to_one"

    def apply(self, key: jax.Array, x: jax.Array) -> jax.Array:
        height, width = x.shape[:2]
        order = jax.random.permutation(key, self.tiles**2).reshape(self.tiles, self.tiles)
        kept = order < jnp.round(self.share * self.tiles**2)
        tile = [jnp.arange(side) * self.tiles // side for side in (height, width)]
        mask = kept[tile[0][:, None], tile[1][None, :]][..., None]
        return self.blend.replace(mask=mask).apply(key, x)


@register("attack", "adaptive_blend", threat="backdoor", access="poison_only", paper="qi2023")
@record
class AdaptiveBlend(Covered):
    """alpha, train_alpha: the picture's share at test time and in training; share: of the tiles that a training image
    gets; covers: how many images keep their label for each that loses it.
    """

    alpha: float = 0.2
    train_alpha: float = 0.15
    share: float = 0.5
    covers: float = 1.0
    cells: int = 7
    target: int = 0

    def __post_init__(self):
        super().__post_init__()
        require_shares("adaptive_blend", alpha=self.alpha, train_alpha=self.train_alpha, share=self.share)

    def trigger(self, key: jax.Array, data: Dataset) -> Blend:
        shape = data.x.shape[1:]
        picture = noise_picture(stream(key, "picture"), shape, self.cells)
        return Blend(picture, np.ones((*shape[:2], 1), np.float32), self.alpha, self.target, "all_to_one")

    def training_trigger(self, trigger: Blend) -> Partial:
        return Partial(trigger.replace(alpha=self.train_alpha), self.share, self.target, TILES)
