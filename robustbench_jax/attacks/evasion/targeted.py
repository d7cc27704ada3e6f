"""targeted(attack): the same attack, asked for one class instead of any wrong one.

Reference: the goals of Carlini & Wagner, S&P 2017, arXiv:1608.04644, section V (average, best and worst case).
Shapes: C classes. Written for one example.
"""

from typing import Any

import jax
import jax.numpy as jnp

from robustbench_jax.attacks.evasion.wrapped import Wrapped
from robustbench_jax.registry import nearest, register
from robustbench_jax.types import UserError, record

LABELS = ("random", "most_likely", "least_likely")


@register("attack", "targeted", threat="evasion", paper="carlini2017", parts={"attack": "attack"})
@record
class Targeted(Wrapped):
    """label: which wrong class: "random", "most_likely" or "least_likely" by the model's scores of the clean image."""

    attack: Any
    label: str = "random"
    goal = "targeted"

    def __post_init__(self):
        if self.label not in LABELS:
            raise UserError(f"targeted: label = {self.label!r}{nearest(self.label, LABELS)}")
        super().__post_init__()

    def target(self, key: jax.Array, logits: jax.Array, y: jax.Array) -> jax.Array:
        """The class to reach, never `y`."""
        if self.label == "random":
            return (y + jax.random.randint(key, (), 1, logits.shape[-1])) % logits.shape[-1]
        scores = logits if self.label == "most_likely" else -logits
        return jnp.argmax(scores.at[y].set(-jnp.inf))
