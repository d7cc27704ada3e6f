"""bit_depth(bits): fewer levels of grey, so that small perturbations are rounded away.

Reference: feature squeezing, Xu et al., NDSS 2018, arXiv:1704.01155; also Guo et al., ICLR 2018, arXiv:1711.00117.
Its derivative is zero everywhere; BPDA passes it straight through.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.defences.model.preprocessing import Preprocessing
from robustbench_jax.registry import register
from robustbench_jax.types import UserError, record


@register("model_defence", "bit_depth", paper="xu2018")
@record
class BitDepth(Preprocessing):
    """bits: of each channel, from 1 to 8."""

    bits: int = 4
    differentiable = False

    def __post_init__(self):
        if isinstance(self.bits, int) and not 1 <= self.bits <= 8:
            raise UserError(f"bit_depth: bits = {self.bits} must be from 1 to 8")

    def transform(self, key: jax.Array | None, x: jax.Array) -> jax.Array:
        levels = 2.0**self.bits - 1
        return jnp.round(x * levels) / levels
