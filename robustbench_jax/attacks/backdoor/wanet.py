"""wanet(): images are warped by one smooth field, and get the attacker's label.

Reference: Nguyen & Tran, ICLR 2021, arXiv:2102.10369. Offsets drawn evenly from (-1, 1) on a grid of `cells` by `cells`
are divided by the mean of their sizes, enlarged by bicubic interpolation with aligned corners, and scaled by
`strength` / H in coordinates where the image spans -1 to 1; images are sampled bilinearly.
`noise_mode` hands training to the attacker, as the paper does: poisons are drawn anew at every step, and twice as many
other images get a field of their own and keep their label. Without it data are poisoned once.
Shapes: D = [H, W, C], grids [H, W, 2] of (row, column), B batch.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

from robustbench_jax.attacks.backdoor.controlling import Controlled
from robustbench_jax.attacks.backdoor.dirty import DirtyLabel
from robustbench_jax.keys import stream
from robustbench_jax.poisons import PoisonedDataset, Trigger
from robustbench_jax.registry import register
from robustbench_jax.types import Dataset, UserError, record, require_positive

KEYS = -0.75  # of the cubic kernel, as PyTorch's


@record
class Warp(Trigger):
    """places [H, W, 2]: where each pixel is taken from, in pixels."""

    places: jax.Array
    target: int
    relabels: str

    def apply(self, key: jax.Array, x: jax.Array) -> jax.Array:
        return sampled(x, self.places)


@register("attack", "wanet", threat="backdoor", access="poison_only", paper="nguyen2021")
@record
class WaNet(DirtyLabel):
    """cells: of the field on a side; strength: of the warp, about the mean offset in half pixels."""

    cells: int = 4
    strength: float = 0.5
    target: int = 0
    relabels: str = "all_to_one"

    def __post_init__(self):
        super().__post_init__()
        require_positive("wanet", strength=self.strength)
        if self.cells < 2:
            raise UserError(f"wanet: cells = {self.cells} must be at least 2")

    def trigger(self, key: jax.Array, data: Dataset) -> Warp:
        height, width = data.x.shape[1:3]
        field = offsets(np.asarray(jax.random.uniform(key, (self.cells, self.cells, 2), minval=-1)), height, width)
        return Warp(jnp.asarray(places(field * self.strength / height)), self.target, self.relabels)


@register("attack", "wanet_noise", threat="backdoor", access="train_control", paper="nguyen2021")
@record
class WaNetNoise(WaNet):
    """As wanet, in noise mode. noise: how many images are warped otherwise for each poison."""

    cells: int = 4
    strength: float = 0.5
    noise: float = 2.0
    target: int = 0
    relabels: str = "all_to_one"

    def controlled(self, defence: Any, poisoned: PoisonedDataset) -> "NoiseMode":
        share = float(np.mean(poisoned.poisoned))
        if share * (1 + self.noise) > 1:
            raise UserError(f"wanet_noise: {share:.2f} of the images poisoned and {self.noise:g} times as many warped")
        return NoiseMode(defence, poisoned.trigger, share, self.noise * share, len(poisoned.dataset.classes))

    def poison(self, key, data, count, references=()) -> PoisonedDataset:
        """The images stay clean on the disk: poisons are made in training, the rows drawn here say only how many."""
        made = super().poison(key, data, count, references)
        return PoisonedDataset(data, made.poisoned, made.trigger, made.flags)


@record
class NoiseMode(Controlled):
    """A training defence in the attacker's hands. share: of poisons among images; other: of images warped otherwise."""

    defence: Any
    trigger: Any
    share: float
    other: float
    classes: int

    def tampered(self, key: jax.Array, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        chance = jax.random.uniform(stream(key, "which"), (len(x),))
        bad, odd = chance < self.share, (chance >= self.share) & (chance < self.share + self.other)
        height, width = x.shape[1:3]
        shift = jax.random.uniform(stream(key, "noise"), (len(x), height, width, 2), minval=-1.0)
        shift = shift * jnp.asarray([(height - 1) / 2, (width - 1) / 2]) / height
        edge = jnp.asarray([height - 1.0, width - 1.0])
        warped = jax.vmap(lambda x: sampled(x, self.trigger.places))(x)
        noisy = jax.vmap(sampled)(x, jnp.clip(self.trigger.places + shift, 0.0, edge))
        x = jnp.where(bad[:, None, None, None], warped, jnp.where(odd[:, None, None, None], noisy, x))
        wanted = (y + 1) % self.classes if self.trigger.relabels == "all_to_all" else self.trigger.target
        return x, jnp.where(bad, wanted, y)


def offsets(coarse: np.ndarray, height: int, width: int) -> np.ndarray:
    """The field [H, W, 2] of mean size near 1 from coarse offsets [K, K, 2]."""
    coarse = coarse / np.mean(np.abs(coarse))
    rows, columns = (bicubic(len(coarse), side) for side in (height, width))
    return np.einsum("hk,wl,klc->hwc", rows, columns, coarse)


def bicubic(count: int, side: int) -> np.ndarray:
    """[side, count]: weights of bicubic interpolation with aligned corners; edges are repeated."""
    at = np.arange(side) * (count - 1) / max(side - 1, 1)
    first, weights = np.floor(at).astype(int), np.zeros((side, count))
    for step in (-1, 0, 1, 2):
        away = np.abs(at - (first + step))
        near = ((KEYS + 2) * away - (KEYS + 3)) * away**2 + 1
        far = ((KEYS * away - 5 * KEYS) * away + 8 * KEYS) * away - 4 * KEYS
        np.add.at(
            weights,
            (np.arange(side), np.clip(first + step, 0, count - 1)),
            np.where(away <= 1, near, np.where(away < 2, far, 0.0)),
        )
    return weights


def places(field: np.ndarray) -> np.ndarray:
    """float32 [H, W, 2] in pixels: the identity moved by a field in coordinates from -1 to 1, kept inside."""
    sides = np.array(field.shape[:2])
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, side) for side in sides), indexing="ij"), -1)
    return ((np.clip(grid + field, -1, 1) + 1) / 2 * (sides - 1)).astype(np.float32)


def sampled(x: jax.Array, at: jax.Array) -> jax.Array:
    """x [H, W, C] at the places [H, W, 2], bilinearly."""
    channels = [map_coordinates(x[..., c], [at[..., 0], at[..., 1]], order=1) for c in range(x.shape[-1])]
    return jnp.stack(channels, -1)
