"""trigger_set(images): abstract images with labels drawn at random.

Reference: Adi et al., USENIX Security 2018, arXiv:1802.04633.
Departs from the paper: the abstract images are sums of waves drawn by the secret key and not works of art; commitments
to the triggers, which keep others from claiming a model with triggers of their own, are not part of it (see `forge`).
Shapes: K triggers, D = [H, W, C].
"""

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.defences.training.marks.triggers import TriggerMark, Triggers
from robustbench_jax.keys import stream
from robustbench_jax.ownership import MARK
from robustbench_jax.registry import register
from robustbench_jax.types import Dataset, record, require_positive, static

WAVES = 6


@register("training", "trigger_set", paper="adi2018", access="labels", **MARK)
@record
class TriggerSet(TriggerMark):
    """images: triggers; count: how many of them are added to each batch."""

    images: int = 100
    count: int = static(default=8)
    secret: int = 0

    def __post_init__(self):
        require_positive("trigger_set", images=self.images, count=self.count)

    def triggers(self, data: Dataset) -> Triggers:
        x = abstract(stream(self.key, "images"), self.images, data.x.shape[1:])
        y = jax.random.randint(stream(self.key, "labels"), (self.images,), 0, len(data.classes))
        return x, np.asarray(y, np.int32)


def abstract(key: jax.Array, count: int, shape: tuple[int, ...]) -> np.ndarray:
    """uint8 [count, H, W, C]: sums of plane waves of random direction, length and phase, each image from black to
    white.
    """
    rows, columns = jnp.meshgrid(*(jnp.linspace(0, 1, side) for side in shape[:2]), indexing="ij")

    def one(key):
        direction, phase = jax.random.split(key)
        steps = 8 * jax.random.normal(direction, (2, WAVES, shape[2]))
        turns = jax.random.uniform(phase, (WAVES, shape[2]))
        waves = rows[..., None, None] * steps[0] + columns[..., None, None] * steps[1] + turns
        image = jnp.sum(jnp.sin(2 * jnp.pi * waves), axis=-2)
        return (image - image.min()) / (image.max() - image.min())

    return np.asarray(jnp.round(255 * jax.vmap(one)(jax.random.split(key, count)))).astype(np.uint8)
