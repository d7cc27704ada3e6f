"""column_ablation(width): the cross-entropy of one random band of each image; the training of derandomised smoothing.

Reference: Levine & Feizi, NeurIPS 2020, arXiv:2002.10733. row_ablation and block_ablation leave rows and square blocks.
Departs from the paper: what is removed is of one grey value, as in the certifier derandomized_smoothing.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.keys import per_example
from robustbench_jax.ops import ablation
from robustbench_jax.registry import register
from robustbench_jax.training import TrainingDefence
from robustbench_jax.types import Classifier, record, static


class Ablation(TrainingDefence):
    """width: of the band, in pixels; fill: what replaces the rest of the image. Bands go round the image's edge."""

    kind: str

    def __post_init__(self):
        ablation.require_choice(self.registered[1], self.kind, self.width, self.fill)

    def perturb(self, key: jax.Array, model: Classifier, x: jax.Array, y: jax.Array, ids: jax.Array) -> jax.Array:
        """One band of each image x [B, H, W, C]. Raises UserError where it is wider than the images."""
        ablation.require_narrow(self.registered[1], self.kind, self.width, x.shape[1:])
        choices = jnp.asarray(ablation.bands(self.kind, self.width, x.shape[1:]))

        def one(key, image):
            return ablation.only(image, choices[jax.random.randint(key, (), 0, len(choices))], self.fill)

        return jax.vmap(one)(per_example(key, ids), x)


@register("training", "column_ablation", paper="levine2020")
@record
class ColumnAblation(Ablation):
    width: int = static(default=4)
    fill: float = ablation.GREY
    kind = "column"


@register("training", "row_ablation", paper="levine2020")
@record
class RowAblation(Ablation):
    width: int = static(default=4)
    fill: float = ablation.GREY
    kind = "row"


@register("training", "block_ablation", paper="levine2020")
@record
class BlockAblation(Ablation):
    width: int = static(default=4)
    fill: float = ablation.GREY
    kind = "block"
