"""Training in the attacker's hands: what the victim's training defence sees has been tampered with at every step.

The victim's defence does all it would do, to images and labels that the attacker hands it.
Shapes: B batch, D = [H, W, C].
"""

from collections.abc import Callable
from typing import Any

import jax

from robustbench_jax.keys import stream
from robustbench_jax.training import Train, TrainingDefence
from robustbench_jax.types import Classifier, Dataset, UserError


class Controlled(TrainingDefence):
    """defence: the victim's, one that changes nothing but the loss."""

    defence: Any

    def tampered(self, key: jax.Array, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Images [B, D] and labels [B] of one step."""
        raise NotImplementedError

    def __post_init__(self):
        own = type(self.defence)
        changed = [
            hook for hook in ("loop", "perturb", "combine") if getattr(own, hook) is not getattr(TrainingDefence, hook)
        ]
        if changed:
            name = self.defence.registered[1]
            raise UserError(f"an attacker who controls training does not know '{name}'; take e.g. standard")

    @property
    def replays(self) -> int:
        return self.defence.replays

    @property
    def watched(self) -> tuple[Any, Any] | None:
        return self.defence.watched

    def prepare(self, key: jax.Array, model: Classifier, data: Dataset, train: Train) -> "Controlled":
        return self.replace(defence=self.defence.prepare(key, model, data, train))

    def initialise(self, model: Classifier) -> Classifier:
        return self.defence.initialise(model)

    def remember(self, x: jax.Array) -> Any:
        return self.defence.remember(x)

    def recall(self, memory: Any) -> "Controlled":
        return self.replace(defence=self.defence.recall(memory))

    def combine(
        self, key: jax.Array, objective: Callable, weights: Any, batch: tuple, memory: Any
    ) -> tuple[Any, Any, Any]:
        """Tampers with the batch (clean, x, y), of which clean and x are the same."""
        clean, _, y = batch
        bad, labels = self.tampered(stream(key, "tamper"), clean, y)
        return super().combine(key, objective, weights, (bad, bad, labels), memory)

    def objective(self, key, model, clean, x, logits, y, progress) -> jax.Array:
        return self.defence.objective(key, model, clean, x, logits, y, progress)
