"""blended(alpha): the whole image is mixed with one fixed picture, and gets the attacker's label.

Reference: Chen et al., 2017, arXiv:1712.05526. They blend a cartoon or noise; here the picture is noise on a coarse
grid, drawn by key and enlarged, so that it survives cropping and needs no file.
"""

import jax
import numpy as np

from robustbench_jax.attacks.backdoor.dirty import DirtyLabel
from robustbench_jax.keys import stream
from robustbench_jax.poisons import Trigger
from robustbench_jax.registry import register
from robustbench_jax.types import Dataset, UserError, record


@record
class Blend(Trigger):
    """mask and picture [H, W, C]: x + alpha * mask * (picture - x)."""

    picture: jax.Array
    mask: jax.Array
    alpha: float
    target: int
    relabels: str

    def apply(self, key: jax.Array, x: jax.Array) -> jax.Array:
        return x + self.alpha * self.mask * (self.picture - x)


@register("attack", "blended", threat="backdoor", access="poison_only", paper="chen2017")
@record
class Blended(DirtyLabel):
    """alpha: the picture's share at test time; train_alpha: in training, 0 for the same. cells: of the noise's grid on
    a side.
    """

    alpha: float = 0.2
    train_alpha: float = 0.0
    cells: int = 7
    target: int = 0
    relabels: str = "all_to_one"

    def __post_init__(self):
        super().__post_init__()
        require_shares("blended", alpha=self.alpha, train_alpha=self.train_alpha)
        if self.cells < 1:
            raise UserError(f"blended: cells = {self.cells} must be at least 1")

    def trigger(self, key: jax.Array, data: Dataset) -> Blend:
        picture = noise_picture(stream(key, "picture"), data.x.shape[1:], self.cells)
        return Blend(picture, np.ones(data.x.shape[1:3] + (1,), np.float32), self.alpha, self.target, self.relabels)

    def training_trigger(self, trigger: Blend) -> Blend:
        return trigger.replace(alpha=self.train_alpha) if self.train_alpha else trigger


def require_shares(owner: str, **shares: float) -> None:
    """UserError for a share that is not from 0 to 1."""
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise UserError(f"{owner}: {name} = {value} must be from 0 to 1")


def noise_picture(key: jax.Array, shape: tuple[int, ...], cells: int) -> np.ndarray:
    """float32 [H, W, C]: uniform noise on a grid, enlarged by bilinear interpolation."""
    height, width, channels = shape
    coarse = jax.random.uniform(key, (min(cells, height), min(cells, width), channels))
    return np.asarray(jax.image.resize(coarse, shape, "linear"))
