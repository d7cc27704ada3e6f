"""vit_small(patch): the small vision transformer, 12 blocks of width 384 with 6 heads.

Reference: Dosovitskiy et al., ICLR 2021, arXiv:2010.11929; the small size is that of Touvron et al., ICML 2021,
arXiv:2012.12877 (DeiT-S).
"""

import jax
import jax.numpy as jnp
from flax import nnx

from robustbench_jax.models.blocks import Conv, Dense, Normalise, require_image
from robustbench_jax.registry import register
from robustbench_jax.types import UserError


class Block(nnx.Module):
    """Attention and a two-layer perceptron, each on normalised input and added to it."""

    def __init__(self, width: int, heads: int, *, rngs):
        self.heads = heads
        self.norm1, self.norm2 = (nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs) for _ in range(2))
        self.qkv, self.out = Dense(width, 3 * width, last=True, rngs=rngs), Dense(width, width, last=True, rngs=rngs)
        self.wide, self.narrow = Dense(width, 4 * width, rngs=rngs), Dense(4 * width, width, last=True, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.out(self.attend(self.norm1(x)))
        return x + self.narrow(jax.nn.gelu(self.wide(self.norm2(x)), approximate=False))

    def attend(self, x: jax.Array) -> jax.Array:
        """[..., T, W] -> [..., T, W]."""
        q, k, v = jnp.moveaxis(self.qkv(x).reshape(*x.shape[:-1], 3, self.heads, -1), -3, 0)
        weights = jax.nn.softmax(jnp.einsum("...qhd,...khd->...hqk", q, k) / q.shape[-1] ** 0.5, axis=-1)
        return jnp.einsum("...hqk,...khd->...qhd", weights, v).reshape(x.shape)


@register("model", "vit_small", paper="dosovitskiy2021", given=("shape", "classes", "rngs"))
class ViTSmall(nnx.Module):
    """patch: the side of a patch in pixels; it must divide both sides of the image."""

    def __init__(self, patch: int = 16, *, shape, classes, rngs):
        width = 384
        require_image("vit_small", shape, 1)
        if patch < 1 or shape[0] % patch or shape[1] % patch:
            fits = [p for p in range(1, min(shape[:2]) + 1) if not shape[0] % p and not shape[1] % p]
            raise UserError(
                f"vit_small: patch = {patch} must divide {shape[0]}x{shape[1]}; the nearest that does is "
                f"{min(fits, key=lambda p: abs(p - patch))}"
            )
        tokens = (shape[0] // patch) * (shape[1] // patch) + 1
        self.normalise = Normalise(shape[-1])
        self.embed = Conv(shape[-1], width, patch, stride=patch, padding=0, rngs=rngs)
        self.class_token = nnx.Param(jnp.zeros(width))
        self.position = nnx.Param(0.02 * jax.random.normal(rngs.params(), (tokens, width)))
        self.blocks = nnx.List([Block(width, 6, rngs=rngs) for _ in range(12)])
        self.norm = nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)
        self.head = Dense(width, classes, last=True, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.embed(self.normalise(x))
        x = x.reshape(*x.shape[:-3], -1, x.shape[-1])
        first = jnp.broadcast_to(self.class_token[...], (*x.shape[:-2], 1, x.shape[-1]))
        x = jnp.concatenate([first, x], axis=-2) + self.position[...]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[..., 0, :])
