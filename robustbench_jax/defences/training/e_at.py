"""e_at(budgets): each batch is attacked in one ball, drawn the more often the less robust the model is in it.

Reference: Croce & Hein, ICML 2022, arXiv:2105.12508 (extreme norms adversarial training). Between the balls of two
extreme norms, L1 and Linf, the others are covered; so two are enough, at the cost of one. A ball is drawn with
probability in proportion to the share of its training examples so far that were adversarial, evenly until each has had
a batch. Made for `finetuned` from a robust model.
Departs from the paper: PGD in the place of APGD unless `attack` says otherwise; robustness is that of the training
step, batch norm in training mode; the first batch is of the first budget.
Shapes: B batch, D input shape, K budgets.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from robustbench_jax.defences.training.adversarial import require_single
from robustbench_jax.defences.training.several_budgets import InSeveral
from robustbench_jax.ops.drive import attack_batch
from robustbench_jax.ops.unjudged import Unstopped
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, record

TINY = 1e-6  # a budget in which nothing fails is still drawn now and then


@record
class Memory:
    """wrong, batches [K]: the summed error rates and the number of batches of each budget; chosen: that of the next."""

    wrong: jax.Array
    batches: jax.Array
    chosen: jax.Array

    def told(self, error: jax.Array) -> "Memory":
        return self.replace(wrong=self.wrong.at[self.chosen].add(error), batches=self.batches.at[self.chosen].add(1.0))

    @property
    def weights(self) -> jax.Array:
        """[K]: how often each is to be drawn."""
        errors = jnp.maximum(self.wrong / jnp.maximum(self.batches, 1.0), TINY)
        return jnp.where(jnp.all(self.batches > 0), errors, 1.0)


@register("training", "e_at", paper="croce2022", parts={"budgets": "budget", "attack": "attack"}, given=("chosen",))
@record
class EAT(InSeveral):
    """attack: any evasion attack that is no cascade; its first restart is used. chosen: the number of the budget."""

    budgets: tuple = dataclasses.field(default=("linf(8/255)", "l1(12)"), metadata={"static": False})
    attack: Any = "pgd(steps=10)"
    chosen: int = 0

    def __post_init__(self):
        super().__post_init__()
        require_single("e_at", self.attack)

    def remember(self, x: jax.Array) -> Memory:
        none = jnp.zeros(len(self.budgets))
        return Memory(none, none, jnp.zeros((), jnp.int32))

    def recall(self, memory: Memory) -> "EAT":
        return self.replace(chosen=int(memory.chosen))

    def perturb(self, key: jax.Array, model: Classifier, x: jax.Array, y: jax.Array, ids: jax.Array) -> jax.Array:
        return attack_batch(key, Unstopped(self.attack), model, self.budgets[self.chosen], x, y, ids)

    def combine(
        self, key: jax.Array, objective: Callable, weights: Any, batch: tuple, memory: Memory
    ) -> tuple[Any, Any, Memory]:
        gradients, aux, memory = super().combine(key, objective, weights, batch, memory)
        _, _, accuracy = aux
        memory = memory.told(1 - accuracy)
        return gradients, aux, memory.replace(chosen=jax.random.categorical(key, jnp.log(memory.weights)))
