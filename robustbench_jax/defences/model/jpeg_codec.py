"""jpeg_codec(quality): what Pillow's JPEG writes and reads, on the host: a preprocessing that cannot be looked into.

Reference: Guo et al., ICLR 2018, arXiv:1711.00117, as for jpeg, whose codec stands in for it where BPDA wants
a gradient; it has none of its own.
Shapes: H height, W width, C channels; any leading dimensions on the host.
"""

import io
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from robustbench_jax.defences.model.jpeg import require_quality
from robustbench_jax.defences.model.preprocessing import Preprocessing
from robustbench_jax.ops.jpeg import smooth_jpeg
from robustbench_jax.registry import register
from robustbench_jax.types import record


@register("model_defence", "jpeg_codec", paper="guo2018")
@record
class JPEGCodec(Preprocessing):
    """quality: from 1 to 100."""

    quality: int = 75
    differentiable = False
    hosted = True

    def __post_init__(self):
        require_quality("jpeg_codec", self.quality)

    def transform(self, key: jax.Array | None, x: jax.Array) -> jax.Array:
        levels = jnp.clip(jnp.round(jax.lax.stop_gradient(x) * 255.0), 0, 255).astype(jnp.uint8)
        kind = jax.ShapeDtypeStruct(x.shape, jnp.uint8)
        coded = jax.pure_callback(_coded, kind, levels, self.quality, vmap_method="broadcast_all")
        return coded.astype(x.dtype) / 255.0

    def smooth(self, key: jax.Array | None, x: jax.Array) -> jax.Array:
        return smooth_jpeg(x, self.quality)


def _coded(levels: Any, quality: Any) -> np.ndarray:
    """uint8 [..., H, W, C]; quality [...]."""
    levels = np.asarray(levels)
    images, qualities = levels.reshape(-1, *levels.shape[-3:]), np.asarray(quality).reshape(-1)
    return np.stack([_one(x, int(q)) for x, q in zip(images, qualities, strict=True)]).reshape(levels.shape)


def _one(x: np.ndarray, quality: int) -> np.ndarray:
    """Images of three channels in colour, all others channel by channel."""
    if x.shape[-1] not in (1, 3):
        return np.concatenate([_one(x[..., c : c + 1], quality) for c in range(x.shape[-1])], axis=-1)
    file = io.BytesIO()
    Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).reshape(x.shape)
