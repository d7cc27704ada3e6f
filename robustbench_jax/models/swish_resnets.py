"""wide_resnet_swish(depth, width) and preact_resnet18_swish: the residual networks of DeepMind's robust models.

Reference: Gowal et al., 2020, arXiv:2010.03593; also Rebuffi et al., NeurIPS 2021, arXiv:2103.01946, and Wang et al.,
ICML 2023, arXiv:2302.04638. Beside x sigmoid(x) for ReLU they differ from preact.py in padding: a convolution with
stride 2 pads one pixel after and none before, as "SAME" does on even sides. In preact_resnet18_swish the shortcut is
a 3x3 convolution of the input before its norm.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from robustbench_jax.models.blocks import Conv, Dense, Normalise, batch_norm, require_image
from robustbench_jax.registry import register
from robustbench_jax.types import UserError

GIVEN = ("shape", "classes", "rngs")


class SwishBlock(nnx.Module):
    """norm, swish, conv, twice. window: the shortcut's convolution; early: it sees the input, not its activation."""

    def __init__(self, ins: int, outs: int, stride: int, window: int, early: bool, *, rngs):
        pads = ((1, 1) if stride == 1 else (0, 1),) * 2
        self.early = early
        self.norm1, self.norm2 = batch_norm(ins, rngs), batch_norm(outs, rngs)
        self.conv1 = Conv(ins, outs, 3, stride=stride, padding=pads, bias=False, rngs=rngs)
        self.conv2 = Conv(outs, outs, 3, padding=1, bias=False, rngs=rngs)
        same = ins == outs and stride == 1
        around = pads if window == 3 else 0
        self.shortcut = None if same else Conv(ins, outs, window, stride=stride, padding=around, bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        active = jax.nn.silu(self.norm1(x))
        out = self.conv2(jax.nn.silu(self.norm2(self.conv1(active))))
        return out + (x if self.shortcut is None else self.shortcut(x if self.early else active))


class SwishResNet(nnx.Module):
    """Stages of `blocks` blocks with the given channels; every stage but the first halves the sides."""

    def __init__(
        self, stem: int, channels: tuple[int, ...], blocks: int, window: int, early: bool, *, shape, classes, rngs
    ):
        require_image("a swish ResNet", shape, 8)
        self.normalise = Normalise(shape[-1])
        self.stem = Conv(shape[-1], stem, 3, padding=1, bias=False, rngs=rngs)
        stack, ins = [], stem
        for stage, outs in enumerate(channels):
            for block in range(blocks):
                stack.append(SwishBlock(ins, outs, 2 if stage and not block else 1, window, early, rngs=rngs))
                ins = outs
        self.blocks = nnx.List(stack)
        self.norm, self.head = batch_norm(ins, rngs), Dense(ins, classes, last=True, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.stem(self.normalise(x))
        for block in self.blocks:
            x = block(x)
        return self.head(jnp.mean(jax.nn.silu(self.norm(x)), axis=(-3, -2)))


@register("model", "wide_resnet_swish", paper="gowal2020", given=GIVEN)
def wide_resnet_swish(depth: int = 28, width: int = 10, *, shape, classes, rngs) -> SwishResNet:
    """depth: 6 n + 4 layers; width: times 16, 32 and 64 channels."""
    if depth < 10 or (depth - 4) % 6:
        right = max(10, 6 * round((depth - 4) / 6) + 4)
        raise UserError(f"wide_resnet_swish: depth = {depth} must be 6 n + 4; the nearest is {right}")
    if width < 1:
        raise UserError(f"wide_resnet_swish: width = {width} must be at least 1")
    channels = tuple(width * base for base in (16, 32, 64))
    return SwishResNet(16, channels, (depth - 4) // 6, 1, False, shape=shape, classes=classes, rngs=rngs)


@register("model", "preact_resnet18_swish", paper="gowal2020", given=GIVEN)
def preact_resnet18_swish(*, shape, classes, rngs) -> SwishResNet:
    """width 64, two blocks a stage."""
    return SwishResNet(64, (64, 128, 256, 512), 2, 3, True, shape=shape, classes=classes, rngs=rngs)
