"""resnet18 and resnet50: the ImageNet ResNets.

Reference: He et al., CVPR 2016, arXiv:1512.03385; in the bottleneck the 3x3 convolution has the stride, as in the
published PyTorch weights ("v1.5").
"""

import jax
import jax.numpy as jnp
from flax import nnx

from robustbench_jax.models.blocks import Conv, Dense, Normalise, batch_norm, require_image
from robustbench_jax.ops.layers import max_pool
from robustbench_jax.registry import register

GIVEN = ("shape", "classes", "rngs")


class Residual(nnx.Module):
    """Convolutions (channels, window, stride) each with a norm, ReLU between; a projection where the shape changes."""

    def __init__(self, ins: int, convolutions: list[tuple[int, int, int]], stride: int, *, rngs):
        convs, norms, channels = [], [], ins
        for outs, window, step in convolutions:
            convs.append(Conv(channels, outs, window, stride=step, padding=window // 2, bias=False, rngs=rngs))
            norms.append(batch_norm(outs, rngs))
            channels = outs
        self.convs, self.norms = nnx.List(convs), nnx.List(norms)
        project = ins != channels or stride != 1
        self.shortcut = Conv(ins, channels, 1, stride=stride, padding=0, bias=False, rngs=rngs) if project else None
        self.norm = batch_norm(channels, rngs) if project else None

    def __call__(self, x: jax.Array) -> jax.Array:
        out = x
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            out = norm(conv(jax.nn.relu(out) if i else out))
        return jax.nn.relu(out + (x if self.shortcut is None else self.norm(self.shortcut(x))))


class ImageNetResNet(nnx.Module):
    def __init__(self, blocks: tuple[int, ...], bottleneck: bool, *, shape, classes, rngs):
        require_image("an ImageNet ResNet", shape, 32)
        self.normalise = Normalise(shape[-1])
        self.stem = Conv(shape[-1], 64, 7, stride=2, padding=3, bias=False, rngs=rngs)
        self.norm = batch_norm(64, rngs)
        stack, ins = [], 64
        for stage, count in enumerate(blocks):
            width = 64 * 2**stage
            for block in range(count):
                stride = 2 if stage and not block else 1
                plan = (
                    [(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)]
                    if bottleneck
                    else [(width, 3, stride), (width, 3, 1)]
                )
                stack.append(Residual(ins, plan, stride, rngs=rngs))
                ins = plan[-1][0]
        self.blocks = nnx.List(stack)
        self.head = Dense(ins, classes, last=True, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = max_pool(jax.nn.relu(self.norm(self.stem(self.normalise(x)))), 3, 2, 1)
        for block in self.blocks:
            x = block(x)
        return self.head(jnp.mean(x, axis=(-3, -2)))


@register("model", "resnet18", paper="he2016", given=GIVEN)
def resnet18(*, shape, classes, rngs) -> ImageNetResNet:
    return ImageNetResNet((2, 2, 2, 2), False, shape=shape, classes=classes, rngs=rngs)


@register("model", "resnet50", paper="he2016", given=GIVEN)
def resnet50(*, shape, classes, rngs) -> ImageNetResNet:
    return ImageNetResNet((3, 4, 6, 3), True, shape=shape, classes=classes, rngs=rngs)
