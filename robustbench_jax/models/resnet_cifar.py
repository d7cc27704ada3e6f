"""resnet20, resnet32, resnet44, resnet56: the CIFAR ResNets, with parameter-free shortcuts (option A).

Reference: He et al., CVPR 2016, arXiv:1512.03385, section 4.2.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from robustbench_jax.models.blocks import Conv, Dense, Normalise, batch_norm, require_image
from robustbench_jax.registry import register

GIVEN = ("shape", "classes", "rngs")


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions; the shortcut takes every other pixel and pads the channels with zeros on both sides."""

    def __init__(self, ins: int, outs: int, stride: int, *, rngs):
        self.stride, self.padding = stride, (outs - ins) // 2
        self.conv1 = Conv(ins, outs, 3, stride=stride, padding=1, bias=False, rngs=rngs)
        self.conv2 = Conv(outs, outs, 3, padding=1, bias=False, rngs=rngs)
        self.norm1, self.norm2 = batch_norm(outs, rngs), batch_norm(outs, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        out = self.norm2(self.conv2(jax.nn.relu(self.norm1(self.conv1(x)))))
        x = x[..., :: self.stride, :: self.stride, :]
        return jax.nn.relu(out + jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(self.padding, self.padding)]))


class CifarResNet(nnx.Module):
    """Three stages of `blocks` blocks with 16, 32 and 64 channels."""

    def __init__(self, blocks: int, *, shape, classes, rngs):
        require_image(f"resnet{6 * blocks + 2}", shape, 8)
        self.normalise = Normalise(shape[-1])
        self.stem, self.norm = Conv(shape[-1], 16, 3, padding=1, bias=False, rngs=rngs), batch_norm(16, rngs)
        stack, ins = [], 16
        for stage, outs in enumerate((16, 32, 64)):
            for block in range(blocks):
                stack.append(BasicBlock(ins, outs, 2 if stage and not block else 1, rngs=rngs))
                ins = outs
        self.blocks = nnx.List(stack)
        self.head = Dense(64, classes, last=True, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(self.norm(self.stem(self.normalise(x))))
        for block in self.blocks:
            x = block(x)
        return self.head(jnp.mean(x, axis=(-3, -2)))


@register("model", "resnet20", paper="he2016", given=GIVEN)
def resnet20(*, shape, classes, rngs) -> CifarResNet:
    return CifarResNet(3, shape=shape, classes=classes, rngs=rngs)


@register("model", "resnet32", paper="he2016", given=GIVEN)
def resnet32(*, shape, classes, rngs) -> CifarResNet:
    return CifarResNet(5, shape=shape, classes=classes, rngs=rngs)


@register("model", "resnet44", paper="he2016", given=GIVEN)
def resnet44(*, shape, classes, rngs) -> CifarResNet:
    return CifarResNet(7, shape=shape, classes=classes, rngs=rngs)


@register("model", "resnet56", paper="he2016", given=GIVEN)
def resnet56(*, shape, classes, rngs) -> CifarResNet:
    return CifarResNet(9, shape=shape, classes=classes, rngs=rngs)
