"""strip(blends): no answer where the class stays the same whatever the image is blended with.

Reference: Gao et al., ACSAC 2019, arXiv:1902.06531: a backdoor's trigger decides about blends as well, so that the mean
entropy of the predictions for blends with clean images is low.
Shapes: D input shape, K blends.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.defences.serving.detector import Detector, Score
from robustbench_jax.ops.images import as_unit
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, UserError, record


@record
class Steadiness(Score):
    """overlays [K, D]; share: of the overlay in a blend."""

    overlays: jax.Array
    share: Any

    @classmethod
    def drawn(cls, key: jax.Array, data: Dataset, blends: int, share: float) -> "Steadiness":
        """With so many images of the data, all of them where there are fewer. The key is consumed."""
        rows = np.asarray(jax.random.permutation(key, len(data)))[:blends]
        return cls(jnp.asarray(as_unit(data.x[rows])), np.float32(share))

    def __call__(self, model: Classifier, x: jax.Array) -> jax.Array:
        """Minus the mean entropy, in nats, of the K predictions for blends of x [D]."""
        blends = (1 - self.share) * x + self.share * self.overlays
        chances = jax.nn.log_softmax(jax.vmap(model)(blends))
        return jnp.mean(jnp.sum(jnp.exp(chances) * chances, axis=-1))


@register("model_defence", "strip", paper="gao2019")
@record
class Strip(Detector):
    """blends: how many; share: of the clean image in each, pixels from 0 to 1. fpr, images: see Detector."""

    blends: int = 64
    share: float = 0.5
    fpr: float = 0.01
    images: int = 5000

    def __post_init__(self):
        super().__post_init__()
        require_blends(self.blends, self.share)

    def fit(self, key: jax.Array, classifier: Classifier, data: Dataset) -> Steadiness:
        if self.blends > len(data):
            raise UserError(f"strip: blends = {self.blends}: there are {len(data)} images to blend with")
        return Steadiness.drawn(key, data, self.blends, self.share)


def require_blends(blends: int, share: float) -> None:
    if blends < 1:
        raise UserError(f"strip: blends = {blends} must be at least 1")
    if not 0 < share < 1:
        raise UserError(f"strip: share = {share} must be between 0 and 1")
