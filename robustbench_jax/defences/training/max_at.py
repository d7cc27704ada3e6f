"""max_at(budgets) and avg_at(budgets): adversarial training in several balls; on the worst example, or on all of them.

Reference: Tramer & Boneh, NeurIPS 2019, arXiv:1904.13000. Each image is attacked in each ball. `max_at` trains on the
example of the highest cross-entropy, `avg_at` on the mean loss of all.
Departs from the paper: one attack for all balls; it sees the model in inference mode.
Shapes: B batch, D input shape, K budgets.
"""

from typing import Any

import jax
import jax.numpy as jnp

from robustbench_jax.defences.training.adversarial import require_single
from robustbench_jax.defences.training.several_budgets import InSeveral
from robustbench_jax.keys import stream
from robustbench_jax.ops.ascent import highest
from robustbench_jax.ops.drive import attack_batch
from robustbench_jax.ops.losses import cross_entropy
from robustbench_jax.ops.unjudged import Unstopped
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, record

PARTS = {"budgets": "budget", "attack": "attack"}


@record
class InEach(InSeveral):
    """attack: any evasion attack that is no cascade; its first restart is used."""

    attack: Any = "pgd(steps=10)"

    def __post_init__(self):
        super().__post_init__()
        require_single(self.registered[1], self.attack)

    def examples(self, key: jax.Array, model: Classifier, x: jax.Array, y: jax.Array, ids: jax.Array) -> jax.Array:
        """[K, B, D]: one adversarial example in each ball."""
        attack = Unstopped(self.attack)
        keys = [stream(key, f"budget {number}") for number in range(len(self.budgets))]
        found = [attack_batch(k, attack, model, b, x, y, ids) for k, b in zip(keys, self.budgets, strict=True)]
        return jnp.stack(found)


@register("training", "max_at", paper="tramer2019", parts=PARTS)
@record
class MaxAT(InEach):
    def perturb(self, key: jax.Array, model: Classifier, x: jax.Array, y: jax.Array, ids: jax.Array) -> jax.Array:
        return highest(cross_entropy, model, self.examples(key, model, x, y, ids), y)


@register("training", "avg_at", paper="tramer2019", parts=PARTS)
@record
class AvgAT(InEach):
    def perturb(self, key: jax.Array, model: Classifier, x: jax.Array, y: jax.Array, ids: jax.Array) -> jax.Array:
        """[K * B, D]."""
        return jnp.concatenate(self.examples(key, model, x, y, ids))

    def loss(self, logits: jax.Array, y: jax.Array) -> jax.Array:
        return super().loss(logits, jnp.tile(y, len(logits) // len(y)))
