"""neural_cleanse(): for each class the smallest trigger that sends all images there; a class with a far smaller one?

Reference: Wang et al., IEEE S&P 2019. For each class, mask and pattern minimise cross-entropy + cost * |mask|_1 by
Adam; the cost rises twofold after `patience` steps of success in a row and falls by 2^1.5 after as many of failure. The
mask with the smallest L1 norm whose success is at least `success` is kept. The anomaly index is |x - median| / (1.4826
MAD); a class is accused where it is above 2 and its mask below the median. With ten classes and no backdoor that
happens to a third of models whose norms are Gaussian, so a verdict needs a population of clean models.
Departs from the paper: success is measured on all trusted images with the mask of that moment, not averaged over an
epoch in which it changes; a class that never succeeds counts with its whole mask, and is flagged.
Shapes: C classes, D = [H, W, ch], N trusted images.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robustbench_jax.defences.inspection.inspector import Inspection, Inspector
from robustbench_jax.keys import stream
from robustbench_jax.ops.images import as_unit
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, UserError, record, require_positive, static

UP, DOWN, CONSISTENT = 2.0, 2.0**1.5, 1.4826
ACCUSED = 2.0


@record
class Search:
    """Per class [C]: raw mask [C, H, W, 1] and pattern [C, D], Adam's state, cost, steps of success and failure in a
    row, and the best mask, pattern and its norm so far (infinite until there is one).
    """

    raw: Any
    adam: Any
    cost: jax.Array
    up: jax.Array
    down: jax.Array
    best: Any
    norm: jax.Array


@register("inspection", "neural_cleanse", paper="wang2019")
@record
class NeuralCleanse(Inspector):
    """steps: of Adam, on all classes at once, of `batch` images; cost: of the mask's norm at first."""

    steps: int = static(default=300)
    batch: int = static(default=64)
    cost: float = 1e-3
    success: float = 0.98
    learning_rate: float = 0.1
    patience: int = static(default=5)

    def __post_init__(self):
        require_positive("neural_cleanse", steps=self.steps, batch=self.batch, cost=self.cost, patience=self.patience)
        if not 0 < self.success <= 1:
            raise UserError(f"neural_cleanse: success = {self.success} must be above 0 and at most 1")

    def inspect(self, key: jax.Array, model: Classifier, trusted: Dataset) -> Inspection:
        classes, shape = len(trusted.classes), trusted.x.shape[1:]
        optimiser = optax.adam(self.learning_rate, b1=0.5, b2=0.9)
        drawn = jax.random.uniform(stream(key, "start"), (classes, *shape), minval=-1.0)
        raw = {"mask": jnp.mean(drawn, -1, keepdims=True), "pattern": drawn}
        zero = jnp.zeros(classes, jnp.int32)
        state = Search(
            raw, jax.vmap(optimiser.init)(raw), jnp.full(classes, self.cost), zero, zero, unpacked(raw),
            jnp.full(classes, jnp.inf),
        )  # fmt: skip
        size = min(self.batch, len(trusted))
        for step in range(self.steps):
            order = jax.random.permutation(jax.random.fold_in(stream(key, "rows"), step), len(trusted))
            x = trusted.x[np.asarray(order)[:size]]
            state = _step(model, state, x, self.success, self.patience, self.learning_rate)
        return _inspected(state)


def unpacked(raw: Any) -> dict[str, jax.Array]:
    """Mask and pattern in [0, 1]."""
    return {name: jnp.tanh(value) / (2 + 1e-6) + 0.5 for name, value in raw.items()}


@jax.jit
def _step(model: Classifier, state: Search, x, success, patience, rate) -> Search:
    x, optimiser = as_unit(x), optax.adam(rate, b1=0.5, b2=0.9)

    def one(state, label):
        def loss(raw):
            now = unpacked(raw)
            logits = model.net(model.params, x + now["mask"] * (now["pattern"] - x))
            wanted = jnp.full(len(x), label)
            entropy = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, wanted))
            norm = jnp.sum(now["mask"])
            return entropy + state.cost * norm, (now, norm, jnp.mean(jnp.argmax(logits, -1) == label))

        slope, (now, norm, rate_now) = jax.grad(loss, has_aux=True)(state.raw)
        changes, adam = optimiser.update(slope, state.adam)
        done = rate_now >= success
        better = done & (norm < state.norm)
        best = jax.tree.map(lambda a, b: jnp.where(better, a, b), now, state.best)
        up, down = jnp.where(done, state.up + 1, 0), jnp.where(done, 0, state.down + 1)
        factor = jnp.where(up >= patience, UP, jnp.where(down >= patience, 1 / DOWN, 1.0))
        return Search(
            optax.apply_updates(state.raw, changes), adam, state.cost * factor, jnp.where(up >= patience, 0, up),
            jnp.where(down >= patience, 0, down), best, jnp.where(better, norm, state.norm),
        )  # fmt: skip

    return jax.vmap(one)(state, jnp.arange(len(state.cost)))


def _inspected(state: Search) -> Inspection:
    attained = np.isfinite(np.asarray(state.norm))
    last = np.asarray(jnp.sum(unpacked(state.raw)["mask"], axis=(1, 2, 3)))
    norms = np.where(attained, np.asarray(state.norm), np.maximum(last, state.raw["mask"][0].size))
    index = anomaly_index(norms)
    accused = (index > ACCUSED) & (norms < np.median(norms))
    below = np.where(norms < np.median(norms), index, 0.0)
    flags = () if attained.all() else (f"{int(np.sum(~attained))} classes were never reached by a trigger",)
    found = {"norms": norms, "index": index, "attained": attained}
    pictures = {name: np.asarray(value, np.float32) for name, value in state.best.items()}
    return Inspection(float(below.max()), accused, found | pictures, flags)


def anomaly_index(norms: np.ndarray) -> np.ndarray:
    """[C]: distances from the median, in robust standard deviations; 0 where all are equal."""
    away = np.abs(norms - np.median(norms))
    return away / max(CONSISTENT * float(np.median(away)), 1e-12)
