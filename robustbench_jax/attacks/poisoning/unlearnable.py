"""Noise that spoils a whole training set: unlearnable_examples (errors minimised), adversarial_poisons (maximised).

References: Huang et al., ICLR 2021, arXiv:2101.04898: noise and a model are optimised in turn, both to make the loss
small, so that there is nothing to learn from the images but the noise; one pattern for each class or for each image.
Fowl et al., NeurIPS 2021, arXiv:2106.10807: PGD on a trained surrogate towards the next class, labels as they were.
Noise is added before augmentation, and goes with its image whatever the order of training.
Departs from the paper: unlearnable noise is made against a surrogate trained on clean data, which goes on learning on
the noisy images in turn (SGD), for a fixed number of rounds and not until its training error is below 1%.
Shapes: R images, D = [H, W, C].
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robustbench_jax.attacks.poisoning.targeted import rounded
from robustbench_jax.keys import stream
from robustbench_jax.ops.images import as_unit
from robustbench_jax.poisons import PoisonedDataset, PoisoningAttack, changed, chosen
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, UserError, record, require_positive, static

PER = ("class", "sample")
BATCH = 128


class Noisy(PoisoningAttack):
    """eps: largest change of a pixel."""

    goal = "availability"
    clean_label = True
    references = 1
    eps: Any

    def noise(self, key: jax.Array, model: Classifier, x: np.ndarray, y: np.ndarray, classes: int) -> np.ndarray:
        """float32 [R, D] in [-eps, eps] for images x uint8 [R, D]."""
        raise NotImplementedError

    def poison(
        self, key: jax.Array, data: Dataset, count: int, references: tuple[Classifier, ...] = ()
    ) -> PoisonedDataset:
        rows, flags = chosen(stream(key, "rows"), np.ones(len(data), bool), count)
        if not len(rows):
            return changed(data, rows)
        x, y = data.x[rows], data.y[rows]
        made = as_unit(x) + self.noise(stream(key, "noise"), references[0], x, y, len(data.classes))
        return changed(data, rows, x=rounded(made, x, float(self.eps)), flags=flags)


@register("attack", "unlearnable_examples", threat="poisoning", access="poison_only", paper="huang2021")
@record
class UnlearnableExamples(Noisy):
    """per: "class" or "sample"; rounds: of one pass over the images each, in which each batch moves the surrogate once
    and its noise `steps` times.
    """

    eps: float = 16 / 255
    per: str = "class"
    rounds: int = static(default=3)
    steps: int = static(default=3)
    learning_rate: float = 0.1

    def __post_init__(self):
        require_positive("unlearnable_examples", eps=self.eps, rounds=self.rounds, steps=self.steps)
        if self.per not in PER:
            raise UserError(f"unlearnable_examples: per = {self.per!r}; there are: {', '.join(PER)}")

    def noise(self, key: jax.Array, model: Classifier, x: np.ndarray, y: np.ndarray, classes: int) -> np.ndarray:
        shared = self.per == "class"
        index = y if shared else np.arange(len(y))
        start = jax.random.uniform(key, (classes if shared else len(y), *x.shape[1:]), minval=-1.0) * self.eps
        delta, params, size = np.array(start), model.params, min(BATCH, len(y))
        for turn in range(self.rounds):
            order = np.asarray(jax.random.permutation(jax.random.fold_in(stream(key, "order"), turn), len(y)))
            for at in range(0, len(y), size):
                rows = order[at : at + size]
                params = _learn(model.net, params, x[rows], delta[index[rows]], y[rows], self.learning_rate)
                for _ in range(self.steps):
                    slope = np.asarray(input_slope(model.net, params, x[rows], delta[index[rows]], y[rows]))
                    total = np.zeros_like(delta)
                    np.add.at(total, index[rows], slope)
                    delta = np.clip(delta - self.eps / 5 * np.sign(total), -self.eps, self.eps)
        return delta[index]


@register("attack", "adversarial_poisons", threat="poisoning", access="poison_only", paper="fowl2021")
@record
class AdversarialPoisons(Noisy):
    """steps of PGD, each a fifth of eps, towards the class after the image's own."""

    eps: float = 16 / 255
    steps: int = static(default=30)

    def __post_init__(self):
        require_positive("adversarial_poisons", eps=self.eps, steps=self.steps)

    def noise(self, key: jax.Array, model: Classifier, x: np.ndarray, y: np.ndarray, classes: int) -> np.ndarray:
        out = []
        for at in range(0, len(y), BATCH):
            part, wanted = x[at : at + BATCH], (y[at : at + BATCH] + 1) % classes
            delta = jnp.zeros(part.shape, jnp.float32)
            for _ in range(self.steps):
                slope = input_slope(model.net, model.params, part, delta, wanted)
                delta = jnp.clip(delta - self.eps / 5 * jnp.sign(slope), -self.eps, self.eps)
            out.append(np.asarray(delta))
        return np.concatenate(out)


def _mean_loss(net, params, weights, x, delta, y):
    logits = net(params | weights, jnp.clip(as_unit(x) + delta, 0.0, 1.0))
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))


@jax.jit
def _slope_of(model, x, delta, y):
    return jax.grad(lambda d: _mean_loss(model.net, model.params, {}, x, d, y))(delta)


def input_slope(net, params, x, delta, y) -> jax.Array:
    """The gradient of the mean loss of x uint8 [B, D] + delta at labels y, by delta [B, D]."""
    return _slope_of(Classifier(net, params), x, delta, y)


@jax.jit
def _learned(model, x, delta, y, rate):
    weights = model.net.trainable(model.params)
    slope = jax.grad(lambda w: _mean_loss(model.net, model.params, w, x, delta, y))(weights)
    return model.params | jax.tree.map(lambda w, g: w - rate * g, weights, slope)


def _learn(net, params, x, delta, y, rate) -> dict:
    return _learned(Classifier(net, params), x, delta, y, rate)
