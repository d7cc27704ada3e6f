"""neural_cleanse(): the smallest patch that sends images to each class; a class with a far smaller one is accused.

Reference: Wang et al., IEEE S&P 2019, doi 10.1109/SP.2019.00031.
Departs from the paper: a class is attacked on trusted images of all other classes; success is that of one fixed mask
on all of them, at the end of an epoch, where the reference averages it while the mask changes; a class whose mask never
reached `success` is not accused. With 10 classes, an index above 2 is frequent in clean models.
Shapes: C classes, B batch, D = [H, W, K] input shape.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robustbench_jax.defences.inspection.inspector import Inspection, Inspector
from robustbench_jax.keys import stream
from robustbench_jax.ops.images import as_unit
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, UserError, record, require_positive, static

OPTIMISER = optax.adam(0.1, b1=0.5, b2=0.9)
UP, DOWN = 2.0, 2.0**1.5  # what the weight of the norm is multiplied and divided by


@register("inspection", "neural_cleanse", paper="wang2019")
@record
class NeuralCleanse(Inspector):
    """epochs over the trusted images in batches of `batch`; cost: the weight of the mask's norm at first; success: the
    share of images that a mask has to turn; patience: epochs until the weight changes.
    """

    epochs: int = static(default=40)
    batch: int = static(default=50)
    cost: float = 1e-3
    success: float = 0.98
    patience: int = static(default=5)

    def __post_init__(self):
        require_positive("neural_cleanse", epochs=self.epochs, batch=self.batch, cost=self.cost, patience=self.patience)
        if not 0 < self.success <= 1:
            raise UserError(f"neural_cleanse: success = {self.success} must be above 0 and at most 1")

    def inspect(self, key: jax.Array, model: Classifier, trusted: Dataset) -> Inspection:
        found = self.triggers(key, model, trusted)
        index = anomaly_index(found["norm"])
        below, missed = found["norm"] < np.median(found["norm"]), np.flatnonzero(~found["attained"])
        flags = (f"no mask reached the success asked for: classes {missed.tolist()}",) * bool(len(missed))
        score = float(np.max(np.where(below, index, 0)))
        return Inspection(score, below & (index > 2) & found["attained"], found | {"index": index}, flags)

    def triggers(self, key: jax.Array, model: Classifier, trusted: Dataset) -> dict[str, np.ndarray]:
        """mask [C, H, W, 1] and pattern [C, D] in [0, 1], norm [C] (L1, of the mask), attained bool[C], rate [C]."""
        classes, size = len(trusted.classes), min(self.batch, len(trusted))
        state = _start(stream(key, "start"), classes, trusted.x.shape[1:])
        optimiser, costs = OPTIMISER.init(state), Costs(classes, self)
        order = np.random.default_rng(int(jax.random.bits(stream(key, "order"))))
        for _ in range(self.epochs):
            rows = order.permutation(len(trusted))
            for first in range(0, len(rows) - size + 1, size):
                ids = rows[first : first + size]
                state, optimiser = _step(model, state, optimiser, trusted.x[ids], trusted.y[ids], costs.now)
            costs.look(*map(np.asarray, _shown(state)), _rates(model, state, trusted, size))
        return costs.found


class Costs:
    """The weight of each class's norm [C], and the smallest successful mask of each so far."""

    def __init__(self, classes: int, settings: NeuralCleanse):
        self.settings, self.now = settings, np.full(classes, settings.cost, np.float32)
        self.over, self.under = np.zeros(classes, int), np.zeros(classes, int)
        self.found = {}

    def look(self, mask: np.ndarray, pattern: np.ndarray, rate: np.ndarray) -> None:
        """Takes in a fixed mask and its success, and moves the weights."""
        enough, norm = rate >= self.settings.success, np.abs(mask).sum((1, 2, 3))
        seen = {"mask": mask, "pattern": pattern, "norm": norm, "rate": rate, "attained": enough}
        if not self.found:
            self.found = {name: np.array(value) for name, value in seen.items()}
        had = self.found["attained"]
        better = np.where(had, enough & (norm < self.found["norm"]), True)
        for name, value in seen.items():
            self.found[name][better] = value[better]
        self.over, self.under = np.where(enough, self.over + 1, 0), np.where(enough, 0, self.under + 1)
        up, down = self.over >= self.settings.patience, self.under >= self.settings.patience
        self.now = (self.now * np.where(up, UP, 1) / np.where(down, DOWN, 1)).astype(np.float32)
        self.over, self.under = np.where(up, 0, self.over), np.where(down, 0, self.under)


def anomaly_index(norms: np.ndarray) -> np.ndarray:
    """|norm - median| / (1.4826 MAD) of each of C norms; the medians are means of the middle two where C is even."""
    away = np.abs(norms - np.median(norms))
    return away / max(1.4826 * np.median(away), np.finfo(np.float32).tiny)


def _start(key, classes, shape):
    own = jax.random.split(key)
    return jax.random.normal(own[0], (classes, *shape[:2], 1)), jax.random.normal(own[1], (classes, *shape))


def _shown(state):
    """Mask and pattern in (0, 1)."""
    return tuple(jnp.tanh(value) / (2 + 1e-7) + 0.5 for value in state)


def _logits(model, state, x):
    """[C, B, C]: of each image with the trigger of each class; one plain batch, which is fast on any platform."""
    mask, pattern = (value[:, None] for value in _shown(state))
    images = x + mask * (pattern - x)
    return jax.vmap(model)(images.reshape(-1, *x.shape[1:])).reshape(*images.shape[:2], -1)


@jax.jit
def _step(model, state, optimiser, x, y, costs):
    x, targets = as_unit(x), jnp.arange(len(costs))[:, None]

    def loss(state):
        logits, others = _logits(model, state, x), y != targets
        each = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.broadcast_to(targets, others.shape))
        fit = jnp.sum(each * others, 1) / jnp.maximum(jnp.sum(others, 1), 1)
        return jnp.sum(fit + costs * jnp.sum(_shown(state)[0], (1, 2, 3)))

    changes, optimiser = OPTIMISER.update(jax.grad(loss)(state), optimiser)
    return optax.apply_updates(state, changes), optimiser


@jax.jit
def _hits(model, state, x, y):
    """(turned, asked) [C]."""
    targets = jnp.arange(state[0].shape[0])[:, None]
    others = y != targets
    return jnp.sum((jnp.argmax(_logits(model, state, as_unit(x)), -1) == targets) & others, 1), jnp.sum(others, 1)


def _rates(model, state, data: Dataset, size: int) -> np.ndarray:
    """The share of all images of other classes that each fixed trigger turns, [C]."""
    parts = [_hits(model, state, data.x[i : i + size], data.y[i : i + size]) for i in range(0, len(data), size)]
    turned, asked = np.sum(jax.device_get(parts), axis=0)
    return turned / np.maximum(asked, 1)
