"""resnet18_cifar and resnet50_cifar: the ImageNet ResNets with a 3x3 stem and no pooling, for images of 32x32.

Reference: He et al., CVPR 2016, arXiv:1512.03385. Departs from the paper: its own CIFAR networks are those of
resnet_cifar.py; these are what adversarial training on CIFAR means by ResNet-18 and ResNet-50.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.models.blocks import Conv, require_image
from robustbench_jax.models.resnet_imagenet import GIVEN, ImageNetResNet
from robustbench_jax.registry import register


class SmallImageResNet(ImageNetResNet):
    def __init__(self, blocks: tuple[int, ...], bottleneck: bool, *, shape, classes, rngs):
        require_image("a ResNet for small images", shape, 8)
        super().__init__(blocks, bottleneck, shape=(32, 32, shape[-1]), classes=classes, rngs=rngs)
        self.stem = Conv(shape[-1], 64, 3, padding=1, bias=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(self.norm(self.stem(self.normalise(x))))
        for block in self.blocks:
            x = block(x)
        return self.head(jnp.mean(x, axis=(-3, -2)))


@register("model", "resnet18_cifar", paper="he2016", given=GIVEN)
def resnet18_cifar(*, shape, classes, rngs) -> SmallImageResNet:
    return SmallImageResNet((2, 2, 2, 2), False, shape=shape, classes=classes, rngs=rngs)


@register("model", "resnet50_cifar", paper="he2016", given=GIVEN)
def resnet50_cifar(*, shape, classes, rngs) -> SmallImageResNet:
    return SmallImageResNet((3, 4, 6, 3), True, shape=shape, classes=classes, rngs=rngs)
