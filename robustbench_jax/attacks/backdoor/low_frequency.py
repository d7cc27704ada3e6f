"""low_frequency(): one smooth pattern for all images, of low spatial frequencies alone, and the attacker's label.

Reference: Zeng et al., ICCV 2021, arXiv:2104.03413: triggers of high frequencies are easy to see in the spectrum.
Departs from the paper: it searches for a pattern that fools a reference model; here the pattern's lowest DCT
coefficients are drawn by key and scaled so that its largest entry is eps, so that no model is needed.
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.fft import idctn

from robustbench_jax.attacks.backdoor.dirty import DirtyLabel
from robustbench_jax.poisons import Trigger
from robustbench_jax.registry import register
from robustbench_jax.types import Dataset, UserError, record, require_positive


@record
class Added(Trigger):
    """pattern [H, W, C], added and clipped."""

    pattern: jax.Array
    target: int
    relabels: str

    def apply(self, key: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.clip(x + self.pattern, 0.0, 1.0)


@register("attack", "low_frequency", threat="backdoor", access="poison_only", paper="zeng2021")
@record
class LowFrequency(DirtyLabel):
    """eps: the pattern's largest entry, pixels from 0 to 1; frequencies: how many of the lowest in each direction,
    without the constant.
    """

    eps: float = 24 / 255
    frequencies: int = 4
    target: int = 0
    relabels: str = "all_to_one"

    def __post_init__(self):
        super().__post_init__()
        require_positive("low_frequency", eps=self.eps)
        if self.frequencies < 2:
            raise UserError(f"low_frequency: frequencies = {self.frequencies} must be at least 2")

    def trigger(self, key: jax.Array, data: Dataset) -> Added:
        height, width, channels = data.x.shape[1:]
        spectrum = np.zeros((height, width, channels))
        band = tuple(min(self.frequencies, side) for side in (height, width))
        spectrum[: band[0], : band[1]] = jax.random.normal(key, (*band, channels))
        spectrum[0, 0] = 0.0
        pattern = idctn(spectrum, axes=(0, 1), norm="ortho")
        pattern *= self.eps / np.abs(pattern).max()
        return Added(jnp.asarray(pattern, jnp.float32), self.target, self.relabels)
