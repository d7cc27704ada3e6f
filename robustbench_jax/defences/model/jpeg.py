"""jpeg(quality): compression and decompression, which round away what the eye does not see.

References: as a defence Dziugaite, Ghahramani & Roy, 2016, arXiv:1608.00853, and Guo et al., ICLR 2018,
arXiv:1711.00117 (quality 75); its gradient for BPDA: Shin & Song, NIPS workshop on machine learning and computer
security, 2017. The codec is that of ops/jpeg.py; `jpeg_codec` is the real one.
"""

from typing import Any

import jax

from robustbench_jax.defences.model.preprocessing import Preprocessing
from robustbench_jax.ops.jpeg import jpeg, smooth_jpeg
from robustbench_jax.registry import register
from robustbench_jax.types import UserError, record


@register("model_defence", "jpeg", paper="guo2018")
@record
class JPEG(Preprocessing):
    """quality: from 1 to 100."""

    quality: int = 75
    differentiable = False

    def __post_init__(self):
        require_quality("jpeg", self.quality)

    def transform(self, key: jax.Array | None, x: jax.Array) -> jax.Array:
        return jpeg(x, self.quality)

    def smooth(self, key: jax.Array | None, x: jax.Array) -> jax.Array:
        return smooth_jpeg(x, self.quality)


def require_quality(owner: str, quality: Any) -> None:
    """UserError for a quality that is not from 1 to 100; traced values pass."""
    if isinstance(quality, int) and not 1 <= quality <= 100:
        raise UserError(f"{owner}: quality = {quality} must be from 1 to 100")
