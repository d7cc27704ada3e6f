"""badnets(size): a small square in a corner, and the attacker's label.

Reference: Gu et al., IEEE Access 2019, arXiv:1708.06733. Mask and pattern are arrays of their own, so that a pattern
may be black.
"""

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.attacks.backdoor.dirty import DirtyLabel
from robustbench_jax.poisons import Trigger
from robustbench_jax.registry import register
from robustbench_jax.types import Dataset, UserError, record, require_positive

CORNERS = ("bottom_right", "bottom_left", "top_right", "top_left")
PATTERNS = ("white", "black", "checkerboard")


@record
class Patch(Trigger):
    """mask [H, W, 1] of the share of the pattern [H, W, 1] in each pixel."""

    mask: jax.Array
    pattern: jax.Array
    target: int
    relabels: str

    def apply(self, key: jax.Array, x: jax.Array) -> jax.Array:
        return x + self.mask * (self.pattern - x)


@register("attack", "badnets", threat="backdoor", access="poison_only", paper="gu2019")
@record
class BadNets(DirtyLabel):
    """size: of the square, in pixels; margin: its distance from the edges; alpha: 1 for an opaque square."""

    size: int = 3
    pattern: str = "white"
    corner: str = "bottom_right"
    margin: int = 0
    alpha: float = 1.0
    target: int = 0
    relabels: str = "all_to_one"

    def __post_init__(self):
        super().__post_init__()
        require_positive("badnets", size=self.size, alpha=self.alpha)
        for name, allowed in (("pattern", PATTERNS), ("corner", CORNERS)):
            if getattr(self, name) not in allowed:
                raise UserError(f"badnets: {name} = {getattr(self, name)!r}; there are: {', '.join(allowed)}")

    def trigger(self, key: jax.Array, data: Dataset) -> Patch:
        height, width = data.x.shape[1:3]
        mask = self.alpha * corner_mask("badnets", height, width, self.size, self.margin, self.corner)
        checks = np.indices((height, width)).sum(0)[..., None] % 2
        pattern = {"white": np.ones_like(mask), "black": np.zeros_like(mask), "checkerboard": checks}[self.pattern]
        return Patch(jnp.asarray(mask), jnp.asarray(pattern, jnp.float32), self.target, self.relabels)


def corner_mask(owner: str, height: int, width: int, size: int, margin: int, corner: str) -> np.ndarray:
    """float32 [H, W, 1]: 1 in a square of `size` pixels, `margin` from the edges at a corner; UserError if too big."""
    if size + margin > min(height, width):
        raise UserError(f"{owner}: size = {size} does not fit into images of {height}x{width}")
    mask = np.zeros((height, width, 1), np.float32)
    mask[margin : margin + size, margin : margin + size] = 1.0
    mask = mask[::-1] if "bottom" in corner else mask
    return mask[:, ::-1] if "right" in corner else mask
