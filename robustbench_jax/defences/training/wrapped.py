"""What training defences that wrap another one share: everything that they do not change is the inner one's."""

from collections.abc import Callable
from typing import Any

import jax

from robustbench_jax.training import Train, TrainingDefence
from robustbench_jax.types import Classifier, Dataset


class WrappedTraining(TrainingDefence):
    """`defence`: the inner training defence."""

    defence: Any

    @property
    def replays(self) -> int:
        return self.defence.replays

    @property
    def watched(self) -> tuple[Any, Any] | None:
        return self.defence.watched

    def prepare(self, key: jax.Array, model: Classifier, data: Dataset, train: Train) -> "WrappedTraining":
        return self.replace(defence=self.defence.prepare(key, model, data, train))

    def initialise(self, model: Classifier) -> Classifier:
        return self.defence.initialise(model)

    def remember(self, x: jax.Array) -> Any:
        return self.defence.remember(x)

    def recall(self, memory: Any) -> "WrappedTraining":
        return self.replace(defence=self.defence.recall(memory))

    def perturb(self, key: jax.Array, model: Classifier, x: jax.Array, y: jax.Array, ids: jax.Array) -> jax.Array:
        return self.defence.perturb(key, model, x, y, ids)

    def loss(self, logits: jax.Array, y: jax.Array) -> jax.Array:
        return self.defence.loss(logits, y)

    def objective(self, key, model, clean, x, logits, y, progress) -> jax.Array:
        return self.defence.objective(key, model, clean, x, logits, y, progress)

    def combine(
        self, key: jax.Array, objective: Callable, weights: Any, batch: tuple, memory: Any
    ) -> tuple[Any, Any, Any]:
        return self.defence.combine(key, objective, weights, batch, memory)
