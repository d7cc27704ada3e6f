"""preact_resnet18_fast: the pre-activation ResNet-18 of fast adversarial training.

Reference: Wong et al., ICLR 2020, arXiv:2001.03994. Unlike preact_resnet18 its shortcuts see the input and not its
activation, and there is neither norm nor ReLU before the head.
"""

import jax
from flax import nnx

from robustbench_jax.models.preact import PreActBlock, PreActResNet
from robustbench_jax.registry import register


class InputShortcutBlock(PreActBlock):
    """norm, ReLU, conv, twice; where the shape changes, a 1x1 convolution of the input is the shortcut."""

    def __call__(self, x: jax.Array) -> jax.Array:
        out = self.conv2(jax.nn.relu(self.norm2(self.conv1(jax.nn.relu(self.norm1(x))))))
        return out + (x if self.shortcut is None else self.shortcut(x))


@register("model", "preact_resnet18_fast", paper="wong2020", given=("shape", "classes", "rngs"))
def preact_resnet18_fast(*, shape, classes, rngs) -> PreActResNet:
    """width 64, two blocks a stage, no last norm."""
    channels = (64, 128, 256, 512)
    model = PreActResNet(64, channels, 2, shape=shape, classes=classes, rngs=rngs, last_norm=False)
    ins = [64, *(outs for outs in channels for _ in range(2))]
    strides = [1, 1, *(2, 1) * 3]
    blocks = zip(ins, ins[1:], strides, strict=False)
    model.blocks = nnx.List([InputShortcutBlock(a, b, stride, rngs=rngs) for a, b, stride in blocks])
    return model
