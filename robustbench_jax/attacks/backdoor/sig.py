"""sig(): a sinusoid over the columns, on images of the target class alone; no label changes.

Reference: Barni et al., ICIP 2019, arXiv:1902.11237: v(i, j) = delta * sin(2 * pi * j * f / W) is added to every row. A
rate is of all training images: one of 1 / C is the whole of a balanced class, and costs accuracy.
"""

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.attacks.backdoor.clean_label import CleanLabel
from robustbench_jax.poisons import Trigger
from robustbench_jax.registry import register
from robustbench_jax.types import Dataset, UserError, record, require_positive


@record
class Sinusoid(Trigger):
    """wave [1, W, 1], added with an amplitude of delta."""

    wave: jax.Array
    delta: float
    target: int
    relabels = "all_to_one"

    def apply(self, key: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.clip(x + self.delta * self.wave, 0.0, 1.0)


@register("attack", "sig", threat="backdoor", access="poison_only", paper="barni2019")
@record
class SIG(CleanLabel):
    """delta: amplitude in training, pixels from 0 to 1; test_delta: at test time, 0 for the same; frequency: periods in
    an image.
    """

    delta: float = 40 / 255
    test_delta: float = 0.0
    frequency: int = 6
    target: int = 0

    def __post_init__(self):
        require_positive("sig", delta=self.delta, frequency=self.frequency)

    def trigger(self, key: jax.Array, data: Dataset) -> Sinusoid:
        width = data.x.shape[2]
        if 2 * self.frequency >= width:
            raise UserError(f"sig: frequency = {self.frequency} is too high for {width} columns; below {width / 2:g}")
        wave = np.sin(2 * np.pi * np.arange(width) * self.frequency / width).astype(np.float32)
        return Sinusoid(jnp.asarray(wave)[None, :, None], self.test_delta or self.delta, self.target)

    def training_trigger(self, trigger: Sinusoid) -> Sinusoid:
        return trigger.replace(delta=self.delta)
