"""sleeper_agent(): poisons whose training gradient is that of triggered images with the attacker's label.

Reference: Souri et al., NeurIPS 2022, arXiv:2106.08970: gradient matching (see gradient_matching) where the target is
the mean gradient of many triggered images, poisons are the images of largest training gradient, and the surrogate
learns on the poisons made so far, `retrains` times. No poison shows the trigger, and no label changes.
Departs from the paper: gradients are ranked by that of the last layer, in closed form; a surrogate that is trained
again goes on from its weights by `recipe`.
Shapes: R poisons, D = [H, W, C].
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.special import softmax

from robustbench_jax.attacks.backdoor.badnets import Patch, corner_mask
from robustbench_jax.attacks.backdoor.clean_label import CleanLabel
from robustbench_jax.attacks.poisoning.gradient_matching import matching_step, mismatch, training_gradient
from robustbench_jax.attacks.poisoning.targeted import rounded, within
from robustbench_jax.keys import stream
from robustbench_jax.models.features import features_of, logits_of
from robustbench_jax.ops.images import as_unit
from robustbench_jax.poisons import changed, stamped
from robustbench_jax.registry import build, register
from robustbench_jax.training import fit
from robustbench_jax.types import Classifier, Dataset, UserError, record, require_positive, static

SOURCES = 256  # triggered images whose gradient is matched


@register(
    "attack", "sleeper_agent", threat="backdoor", access="poison_only", paper="souri2022", parts={"recipe": "recipe"}
)
@record
class SleeperAgent(CleanLabel):
    """eps: of each poison; steps of signed Adam with `learning_rate`, a share of eps; restarts; retrains: of the
    surrogate, by `recipe`; size: of the patch of noise.
    """

    eps: float = 16 / 255
    steps: int = static(default=250)
    learning_rate: float = 0.1
    restarts: int = static(default=1)
    retrains: int = static(default=1)
    size: int = 4
    target: int = 0
    recipe: Any = "sgd(epochs=2, batch_size=64, learning_rate=0.01)"
    references = 1

    def __post_init__(self):
        require_positive("sleeper_agent", eps=self.eps, steps=self.steps, restarts=self.restarts, size=self.size)
        if not 0 <= self.retrains < self.steps:
            raise UserError(
                f"sleeper_agent: retrains = {self.retrains} must be at least 0 and below steps = {self.steps}"
            )

    def trigger(self, key: jax.Array, data: Dataset) -> Patch:
        height, width, channels = data.x.shape[1:]
        mask = corner_mask("sleeper_agent", height, width, self.size, 1, "bottom_right")
        pattern = jax.random.bernoulli(key, 0.5, (height, width, channels)).astype(jnp.float32)
        return Patch(jnp.asarray(mask), pattern, self.target, "all_to_one")

    def rows(self, key: jax.Array, data: Dataset, count: int, references: tuple) -> tuple[np.ndarray, tuple[str, ...]]:
        mine, model = np.flatnonzero(data.y == self.target), references[0]
        wrong = softmax(logits_of(model, data.x[mine]), axis=-1) - np.eye(len(data.classes))[self.target]
        size = np.sum(wrong**2, -1) * (np.sum(features_of(model, data.x[mine]) ** 2, -1) + 1)
        short = (f"only {len(mine)} of {count} poisons: there are no more images to choose from",) * (len(mine) < count)
        return np.sort(mine[np.argsort(-size, kind="stable")[:count]]), short

    def images(
        self, key: jax.Array, rows: np.ndarray, data: Dataset, trigger: Patch, references: tuple[Classifier, ...]
    ) -> np.ndarray:
        if not len(rows):
            return data.x[rows]
        others = np.flatnonzero(data.y != self.target)
        drawn = np.asarray(jax.random.permutation(stream(key, "sources"), others))[:SOURCES]
        triggered = as_unit(stamped(stream(key, "stamp"), trigger, data.x[drawn], drawn))
        best, least = data.x[rows], np.inf
        for restart in range(self.restarts):
            own = jax.random.fold_in(stream(key, "restart"), restart)
            x, loss = self._restart(own, rows, data, triggered, references[0])
            best, least = (x, loss) if loss < least else (best, least)
        return best

    def _restart(self, key, rows, data: Dataset, triggered: jax.Array, model: Classifier) -> tuple[np.ndarray, float]:
        """(poisons uint8 [R, D], mismatch) with the surrogate that it ends with."""
        bases, labels = as_unit(data.x[rows]), jnp.full(len(rows), self.target)
        noise = jax.random.uniform(stream(key, "start"), bases.shape, minval=-self.eps, maxval=self.eps)
        x, adam = within(bases + noise, bases, self.eps), optax.scale_by_adam().init(bases)
        ends, at_rest = np.array([3, 5, 7]) / 8 * self.steps, jnp.zeros(2, int)
        again = {round(self.steps * (i + 1) / (self.retrains + 1)) for i in range(self.retrains)}
        wanted = _wanted(model, triggered, self.target)
        for step in range(self.steps):
            if step in again:
                model = self._trained_on(jax.random.fold_in(stream(key, "retrain"), step), model, data, rows, x)
                wanted = _wanted(model, triggered, self.target)
            rate = self.learning_rate * self.eps * 10.0 ** -float(np.sum(step >= ends))
            x, adam = matching_step((model,), x, adam, bases, labels, (wanted,), at_rest, self.eps, rate)
        made = rounded(np.asarray(x), data.x[rows], float(self.eps))
        return made, float(mismatch((model,), as_unit(made), labels, (wanted,), at_rest))

    def _trained_on(self, key, model: Classifier, data: Dataset, rows: np.ndarray, x: jax.Array) -> Classifier:
        made = changed(data, rows, x=rounded(np.asarray(x), data.x[rows], float(self.eps)))
        return fit(key, model, made.dataset, self.recipe, defence=build("training", "standard"))


@jax.jit
def _wanted(model: Classifier, triggered: jax.Array, target: jax.Array) -> Any:
    return training_gradient(model, triggered, jnp.full(len(triggered), target))
