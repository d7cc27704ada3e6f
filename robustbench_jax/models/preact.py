"""preact_resnet18 and wide_resnet(depth, width): residual networks that normalise before they convolve.

Reference: He et al., ECCV 2016, arXiv:1603.05027; Zagoruyko & Komodakis, BMVC 2016, arXiv:1605.07146. The
placement of the shortcuts is that of the PyTorch versions that adversarial training is published with.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from robustbench_jax.models.blocks import Conv, Dense, Normalise, batch_norm, require_image
from robustbench_jax.registry import register
from robustbench_jax.types import UserError


class PreActBlock(nnx.Module):
    """norm, ReLU, conv, twice; where the shape changes, a 1x1 convolution of the activated input is the shortcut."""

    def __init__(self, ins: int, outs: int, stride: int, *, rngs):
        self.norm1, self.norm2 = batch_norm(ins, rngs), batch_norm(outs, rngs)
        self.conv1 = Conv(ins, outs, 3, stride=stride, padding=1, bias=False, rngs=rngs)
        self.conv2 = Conv(outs, outs, 3, padding=1, bias=False, rngs=rngs)
        same = ins == outs and stride == 1
        self.shortcut = None if same else Conv(ins, outs, 1, stride=stride, padding=0, bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        active = jax.nn.relu(self.norm1(x))
        out = self.conv2(jax.nn.relu(self.norm2(self.conv1(active))))
        return out + (x if self.shortcut is None else self.shortcut(active))


class PreActResNet(nnx.Module):
    """Stages of `blocks` blocks with the given channels; every stage but the first halves the sides."""

    def __init__(self, stem: int, channels: tuple[int, ...], blocks: int, *, shape, classes, rngs, last_norm: bool):
        require_image("a pre-activation ResNet", shape, 8)
        self.normalise = Normalise(shape[-1])
        self.stem = Conv(shape[-1], stem, 3, padding=1, bias=False, rngs=rngs)
        stack, ins = [], stem
        for stage, outs in enumerate(channels):
            for block in range(blocks):
                stack.append(PreActBlock(ins, outs, 2 if stage and not block else 1, rngs=rngs))
                ins = outs
        self.blocks = nnx.List(stack)
        self.norm = batch_norm(ins, rngs) if last_norm else None
        self.head = Dense(ins, classes, last=True, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.stem(self.normalise(x))
        for block in self.blocks:
            x = block(x)
        x = x if self.norm is None else jax.nn.relu(self.norm(x))
        return self.head(jnp.mean(x, axis=(-3, -2)))


@register("model", "preact_resnet18", paper="he2016preact", given=("shape", "classes", "rngs"))
def preact_resnet18(*, shape, classes, rngs) -> PreActResNet:
    """width 64, two blocks a stage, a last norm and ReLU."""
    return PreActResNet(64, (64, 128, 256, 512), 2, shape=shape, classes=classes, rngs=rngs, last_norm=True)


@register("model", "wide_resnet", paper="zagoruyko2016", given=("shape", "classes", "rngs"))
def wide_resnet(depth: int = 28, width: int = 10, *, shape, classes, rngs) -> PreActResNet:
    """depth: 6 n + 4 layers; width: times 16, 32 and 64 channels."""
    if depth < 10 or (depth - 4) % 6:
        right = max(10, 6 * round((depth - 4) / 6) + 4)
        raise UserError(f"wide_resnet: depth = {depth} must be 6 n + 4; the nearest is {right}")
    if width < 1:
        raise UserError(f"wide_resnet: width = {width} must be at least 1")
    channels = tuple(width * base for base in (16, 32, 64))
    return PreActResNet(16, channels, (depth - 4) // 6, shape=shape, classes=classes, rngs=rngs, last_norm=True)
