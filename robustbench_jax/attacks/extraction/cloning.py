"""What attacks that train a clone share: the images that are asked about, and a training on answers.

The victim's architecture is the thief's to guess (`model`). A clone is trained on every answer that he has for at least
`least` steps, so that a small budget is not trained less than a large one.
Shapes: N images, B batch, C classes, D = [H, W, C].
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robustbench_jax.data import load_dataset
from robustbench_jax.keys import stream
from robustbench_jax.models import build_model
from robustbench_jax.registry import canonical
from robustbench_jax.thefts import ExtractionAttack, Oracle, Stolen
from robustbench_jax.training import TrainingDefence, fit
from robustbench_jax.types import Classifier, Dataset, UserError, record, require_positive, static

NOISE = "uniform"  # images that are no images


@record
class Answered(TrainingDefence):
    """Training on answers [N, C]; what stands for the label of an image is its row."""

    answers: jax.Array

    def combine(
        self, key: jax.Array, objective: Callable, weights: Any, batch: tuple, memory: Any
    ) -> tuple[Any, Any, Any]:
        clean, x, rows = batch
        return super().combine(key, objective, weights, (clean, x, self.answers[rows]), memory)

    def objective(self, key, model, clean, x, logits, y, progress) -> jax.Array:
        return jnp.mean(optax.softmax_cross_entropy(logits, y))


@record
class Cloning(ExtractionAttack):
    """model: the clone's architecture; recipe: of its training; least: steps at least. labels: only the answered class
    is looked at. images: a dataset whose training images are asked about, "uniform" for noise; "" for those of the
    victim's dataset, some of which the victim was trained on.
    """

    model: str = static(default="cnn")
    images: str = static(default="")
    labels: bool = False
    recipe: Any = static(default="adamw(epochs=10)")
    least_steps: int = static(default=1000)

    def __post_init__(self):
        name = self.registered[1]
        require_positive(name, least_steps=self.least_steps)
        canonical("model", self.model)
        if self.images not in ("", NOISE):
            canonical("dataset", self.images)
        if not isinstance(self.recipe, str) and getattr(self.recipe, "holdout", 0):
            raise UserError(f"{name}: recipe: holdout = {self.recipe.holdout}: a clone is trained on all answers")

    @property
    def access(self) -> str:
        return "labels" if self.labels else "scores"

    def steal(self, key: jax.Array, oracle: Oracle, pool: Dataset) -> Stolen:
        x, answers = self.collect(stream(key, "collect"), oracle, self.thiefs(key, oracle, pool))
        return Stolen(self.clone(stream(key, "clone"), x, answers, pool))

    def collect(self, key: jax.Array, oracle: Oracle, pool: Dataset) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 [n, D] that were asked about, and the answers [n, C]. The key is consumed."""
        raise NotImplementedError

    def thiefs(self, key: jax.Array, oracle: Oracle, pool: Dataset) -> Dataset:
        """The images that the thief has, of the shape that the victim takes."""
        if self.images == "":
            return pool
        shape, name = pool.x.shape[1:], self.registered[1]
        if self.images == NOISE:
            x = np.asarray(jax.random.randint(stream(key, "noise"), (oracle.budget, *shape), 0, 256), np.uint8)
            return Dataset(x, np.zeros(len(x), np.int32), pool.classes, NOISE)
        found = load_dataset(self.images, "train")
        if found.x.shape[1:] != shape:
            raise UserError(f"{name}: images = {self.images}: they are {found.x.shape[1:]}, the victim takes {shape}")
        return found

    def clone(self, key: jax.Array, x: np.ndarray, answers: np.ndarray, like: Dataset) -> Classifier:
        """A model trained on the answers [n, C] to images x [n, D]. The key is consumed."""
        x, answers = answered(x, answers)
        if not len(x):
            raise UserError(f"{self.registered[1]}: the victim answered none of the images")
        fresh = build_model(self.model, x.shape[1:], answers.shape[1], stream(key, "init"))
        data = Dataset(x, np.arange(len(x), dtype=np.int32), like.classes, "answers")
        defence = Answered(jnp.asarray(answers, jnp.float32))
        return fit(stream(key, "fit"), fresh, data, self.schedule(len(x)), defence=defence)

    def schedule(self, count: int) -> Any:
        """The recipe for so many images: batches no larger than they are, and epochs for the least number of steps."""
        size = min(self.recipe.batch_size, count)
        epochs = max(self.recipe.epochs, -(-self.least_steps // (count // size)))
        return dataclasses.replace(self.recipe, batch_size=size, epochs=epochs)


def answered(x: np.ndarray, answers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Those that got an answer."""
    known = ~np.isnan(answers).any(-1)
    return x[known], answers[known]


def drawn(key: jax.Array, count: int, among: int) -> np.ndarray:
    """int [count]: rows of `among`, each as often as any other or once more."""
    rounds = [np.asarray(jax.random.permutation(jax.random.fold_in(key, i), among)) for i in range(-(-count // among))]
    return np.concatenate(rounds)[:count]
