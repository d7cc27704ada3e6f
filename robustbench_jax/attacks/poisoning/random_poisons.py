"""random_poisons(): images of the intended class with random corners of the box of eps: the control of targeted
attacks.
"""

import jax
import jax.numpy as jnp

from robustbench_jax.attacks.poisoning.targeted import Targeted
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, record, require_positive


@register("attack", "random_poisons", threat="poisoning", access="poison_only")
@record
class RandomPoisons(Targeted):
    """eps: of each poison."""

    eps: float = 16 / 255
    references = 0

    def __post_init__(self):
        require_positive("random_poisons", eps=self.eps)

    def crafted(
        self,
        key: jax.Array,
        bases: jax.Array,
        target: jax.Array,
        intended: int,
        references: tuple[Classifier, ...],
        data: Dataset,
    ) -> jax.Array:
        return jnp.clip(bases + self.eps * jax.random.rademacher(key, bases.shape, float), 0.0, 1.0)
