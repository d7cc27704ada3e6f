"""bpp(bits): the image in few levels of grey or colour, with Floyd-Steinberg dithering, and the attacker's label.

Reference: Wang, Zhai & Ma, CVPR 2022, arXiv:2205.13383 (BppAttack).
Departs from the paper: data are poisoned only; its contrastive training, which the attacker runs, is left out.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.attacks.backdoor.dirty import DirtyLabel
from robustbench_jax.poisons import Trigger
from robustbench_jax.registry import register
from robustbench_jax.types import Dataset, UserError, record

RIGHT, BELOW_LEFT, BELOW, BELOW_RIGHT = (weight / 16 for weight in (7, 3, 5, 1))  # Floyd & Steinberg, 1976


@record
class Quantised(Trigger):
    """levels: how many; dither: whether rounding errors go on to the neighbours."""

    levels: float
    target: int
    relabels: str
    dither: bool

    def apply(self, key: jax.Array, x: jax.Array) -> jax.Array:
        return dithered(x, self.levels) if self.dither else self._level(x)

    def _level(self, x: jax.Array) -> jax.Array:
        return jnp.round(x * (self.levels - 1)) / (self.levels - 1)


@register("attack", "bpp", threat="backdoor", access="poison_only", paper="wang2022bpp")
@record
class Bpp(DirtyLabel):
    """bits: of each channel; dither: Floyd-Steinberg."""

    bits: int = 2
    dither: bool = True
    target: int = 0
    relabels: str = "all_to_one"

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.bits <= 7:
            raise UserError(f"bpp: bits = {self.bits} must be from 1 to 7")

    def trigger(self, key: jax.Array, data: Dataset) -> Quantised:
        return Quantised(2.0**self.bits, self.target, self.relabels, self.dither)


def dithered(x: jax.Array, levels: float) -> jax.Array:
    """x [H, W, C] in so many levels; each pixel's error goes to its right and lower neighbours, row by row."""

    def row(below, values):
        """below [W + 2, C]: what the row above handed down, one place to the right."""

        def pixel(carried, given):
            value, handed = given
            wanted = value + handed + carried
            level = jnp.clip(jnp.round(wanted * (levels - 1)) / (levels - 1), 0.0, 1.0)
            error = wanted - level
            return error * RIGHT, (level, error)

        _, (out, errors) = jax.lax.scan(pixel, jnp.zeros(values.shape[-1]), (values, below[1:-1]))
        padded = jnp.pad(errors, ((1, 1), (0, 0)))
        handed = BELOW * padded
        handed = handed.at[:-1].add(BELOW_LEFT * padded[1:])
        handed = handed.at[1:].add(BELOW_RIGHT * padded[:-1])
        return handed, out

    return jax.lax.scan(row, jnp.zeros((x.shape[1] + 2, x.shape[2])), x)[1]
