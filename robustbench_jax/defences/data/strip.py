"""strip(): training images whose class stays the same whatever they are blended with.

Reference: Gao et al., ACSAC 2019, arXiv:1902.06531, made for images at test time (model_defence strip); BackdoorBench
asks it of training images as well, as is done here: the model is the one that was trained on them.
Departs from the paper: the images of the lowest entropy are left out, as a share of all, and not those below what a
share of clean images have.
Shapes: N images.
"""

import jax
import numpy as np

from robustbench_jax.defences.data.sanitiser import Sanitiser
from robustbench_jax.defences.serving.strip import Steadiness, require_blends
from robustbench_jax.models.features import each
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, record, static


@register("data_defence", "strip", paper="gao2019")
@record
class StripFiltering(Sanitiser):
    """blends: trusted images that each is blended with, at most; share: of the trusted image in each; remove: share of
    all images that are left out.
    """

    blends: int = static(default=16)
    share: float = 0.5
    remove: float = 0.05

    def __post_init__(self):
        super().__post_init__()
        require_blends(self.blends, self.share)

    def score(self, key: jax.Array, model: Classifier, data: Dataset, trusted: Dataset) -> np.ndarray:
        steady = Steadiness.drawn(key, trusted, self.blends, self.share)
        return np.asarray(each(_steadiness, model, data.x, steady), np.float64)


def _steadiness(model: Classifier, x: jax.Array, steady: Steadiness) -> jax.Array:
    return steady(model, x)
