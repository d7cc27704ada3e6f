"""identity: images as they are, for data that others corrupted (CIFAR-10-C, ImageNet-C) and for clean ones.

Shapes: H height, W width, C channels. Written for one image [H, W, C] in [0, 1].
"""

from typing import Any

import jax

from robustbench_jax.attacks.corruption.corruption import Corruption
from robustbench_jax.registry import register
from robustbench_jax.types import record


@register("attack", "identity", threat="corruption", access="none")
@record
class Identity(Corruption):
    """Changes nothing. Its budget is `unchanged`: how strong a corruption is, the data set says."""

    budgets = ("unchanged",)
    changes = False

    def corrupt(self, key: jax.Array, x: jax.Array, severity: Any) -> jax.Array:
        return x
