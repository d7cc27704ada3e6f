"""adaptive_patch(): some of several faint patches in training, with covers; all of them, opaque, at test time.

Reference: Qi et al., ICLR 2023 (Revisiting the Assumption of Latent Separability), Adaptive-Patch.
Departs from the paper: the patches are four squares of noise, one near each corner, drawn by key; theirs are the
triggers of other attacks, which come as files.
"""

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.attacks.backdoor.badnets import CORNERS, corner_mask
from robustbench_jax.attacks.backdoor.blended import require_shares
from robustbench_jax.attacks.backdoor.covered import Covered
from robustbench_jax.poisons import Trigger
from robustbench_jax.registry import register
from robustbench_jax.types import Dataset, UserError, record, require_positive, static


@record
class Patches(Trigger):
    """masks [K, H, W, 1] of K patches and the pattern [H, W, C] under them; `shown` of them, drawn for each image."""

    masks: jax.Array
    pattern: jax.Array
    alpha: float
    target: int
    shown: int = static()
    relabels = "all_to_one"

    def apply(self, key: jax.Array, x: jax.Array) -> jax.Array:
        kept = jax.random.permutation(key, len(self.masks)) < self.shown
        mask = jnp.max(self.masks * kept[:, None, None, None], axis=0)
        return x + self.alpha * mask * (self.pattern - x)


@register("attack", "adaptive_patch", threat="backdoor", access="poison_only", paper="qi2023")
@record
class AdaptivePatch(Covered):
    """size: of each patch, in pixels; shown: how many of the four a training image gets; train_alpha: how opaque they
    are there; covers: how many images keep their label for each that loses it.
    """

    size: int = 4
    shown: int = static(default=2)
    train_alpha: float = 0.5
    covers: float = 2.0
    target: int = 0

    def __post_init__(self):
        super().__post_init__()
        require_positive("adaptive_patch", size=self.size, shown=self.shown)
        require_shares("adaptive_patch", train_alpha=self.train_alpha)
        if self.shown > len(CORNERS):
            raise UserError(f"adaptive_patch: shown = {self.shown} of {len(CORNERS)} patches")

    def trigger(self, key: jax.Array, data: Dataset) -> Patches:
        height, width, channels = data.x.shape[1:]
        masks = [corner_mask("adaptive_patch", height, width, self.size, 1, corner) for corner in CORNERS]
        pattern = jax.random.bernoulli(key, 0.5, (height, width, channels)).astype(jnp.float32)
        return Patches(jnp.asarray(np.stack(masks)), pattern, 1.0, self.target, len(CORNERS))

    def training_trigger(self, trigger: Patches) -> Patches:
        return trigger.replace(alpha=self.train_alpha, shown=self.shown)
