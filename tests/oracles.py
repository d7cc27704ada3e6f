"""Models with known answers, and small images to attack them on."""

from dataclasses import dataclass

import jax
import numpy as np

from robustbench_jax.models import build_model
from robustbench_jax.ops.images import as_unit
from robustbench_jax.types import Classifier, Dataset


def affine(params, x):
    """logits = x w + b: the net of the linear oracle."""
    return x.reshape(-1) @ params["w"] + params["b"]


@dataclass(frozen=True)
class Linear:
    """Two classes, logits (-s / 2, s / 2) with s = w x + b. The images keep away from the edges of the box, so that a
    small ball is not cut: robust in Linf iff margin > eps ||w||_1, in L2 iff margin > eps ||w||_2, in L1 iff
    margin > eps ||w||_inf, with margin = |s|.
    """

    model: Classifier
    data: Dataset
    margin: np.ndarray
    weights: np.ndarray

    def distance(self, ball: str) -> np.ndarray:
        """The exact size of the smallest adversarial perturbation of each image."""
        dual = {"linf": 1, "l2": 2, "l1": np.inf}[ball]
        return self.margin / np.linalg.norm(self.weights, dual)


def linear(count: int = 64, side: int = 6) -> Linear:
    rng = np.random.default_rng(0)
    x = rng.integers(77, 179, size=(count, side, side, 1), dtype=np.uint8)  # within [0.3, 0.7]
    w = rng.normal(size=side * side)
    flat = x.reshape(count, -1) / 255
    b = -np.median(flat @ w)
    score = flat @ w + b
    model = Classifier(
        affine, {"w": np.stack([-w / 2, w / 2], 1).astype(np.float32), "b": np.array([-b / 2, b / 2], np.float32)}
    )
    return Linear(model, Dataset(x, (score > 0).astype(np.int32), ("0", "1"), "linear"), np.abs(score), w)


def noise_images(count: int = 16, shape: tuple[int, ...] = (8, 8, 1), classes: int = 5, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    return Dataset(
        rng.integers(0, 256, (count, *shape), np.uint8),
        rng.integers(0, classes, count).astype(np.int32),
        tuple(map(str, range(classes))),
        "noise",
    )


def small_cnn(seed: int = 0) -> tuple[Classifier, Dataset]:
    """An untrained CNN and images labelled with its own predictions: all are correct, margins are small."""
    return _labelled("cnn(convolutions=[[4, 3, 1], [8, 4, 2]], dense=[16])", 64, seed)


def tiny(seed: int = 0) -> tuple[Classifier, Dataset]:
    """As small_cnn, quicker to compile: one hidden layer."""
    return _labelled("mlp(widths=[16])", 32, seed)


def _labelled(architecture: str, count: int, seed: int) -> tuple[Classifier, Dataset]:
    model = build_model(architecture, (8, 8, 1), 5, jax.random.key(seed))
    data = noise_images(count)
    logits = jax.vmap(model)(as_unit(data.x))
    return model, Dataset(data.x, np.argmax(logits, -1).astype(np.int32), data.classes, "noise")


def small(data: Dataset) -> Dataset:
    """The images with every second row and column alone."""
    return Dataset(np.ascontiguousarray(data.x[:, ::2, ::2]), data.y, data.classes, f"{data.name}, small")


def answer_all(who, images):
    """A service that refuses no query (ops/refusals.py)."""
    return [len(part) for part in images]
