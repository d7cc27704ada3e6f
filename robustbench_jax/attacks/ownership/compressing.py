"""prune(share) and quantise(bits): the stolen model made smaller, which needs no images.

References: as removals, Uchida et al., ICMR 2017, arXiv:1701.04082, section 4.4 (pruning by magnitude); Lukas et al.,
IEEE S&P 2022, arXiv:2108.04974 (weight quantisation).
"""

import jax
import jax.numpy as jnp

from robustbench_jax.ownership import Removal, Thief
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, UserError, record, static


@register("attack", "prune", threat="ownership", access="weights", paper="uchida2017")
@record
class Prune(Removal):
    """share: of the weights of each layer that become 0, those of smallest magnitude; biases stay."""

    share: float = 0.5

    def __post_init__(self):
        if isinstance(self.share, int | float) and not 0 <= self.share < 1:
            raise UserError(f"prune: share = {self.share} must be at least 0 and below 1")

    def remove(self, key: jax.Array, thief: Thief) -> Classifier:
        return changed(thief.stolen, lambda kernel: pruned(kernel, self.share))


@register("attack", "quantise", threat="ownership", access="weights", paper="lukas2022")
@record
class Quantise(Removal):
    """bits: of each weight, in even steps over the range of its layer, both ends and 0 among the levels."""

    bits: int = static(default=8)

    def __post_init__(self):
        if not 2 <= self.bits <= 16:
            raise UserError(f"quantise: bits = {self.bits} must be from 2 to 16")

    def remove(self, key: jax.Array, thief: Thief) -> Classifier:
        return changed(thief.stolen, lambda kernel: quantised(kernel, self.bits))


def changed(model: Classifier, change) -> Classifier:
    """The model with `change` made to the weights of each layer."""
    kernels = {name: change(value) for name, value in model.params.items() if name.endswith("kernel")}
    return model.replace(params=model.params | kernels)


def pruned(kernel: jax.Array, share: float) -> jax.Array:
    """With round(share * size) entries 0, those of smallest magnitude."""
    flat, count = kernel.reshape(-1), round(share * kernel.size)
    order = jnp.argsort(jnp.abs(flat), stable=True)
    return flat.at[order[:count]].set(0.0).reshape(kernel.shape)


def quantised(kernel: jax.Array, bits: int) -> jax.Array:
    """To the nearest of the 2**bits - 1 levels that lie evenly from minus to plus the largest magnitude."""
    step = jnp.max(jnp.abs(kernel)) / (2 ** (bits - 1) - 1)
    return jnp.where(step > 0, jnp.round(kernel / jnp.where(step > 0, step, 1)) * step, kernel)
