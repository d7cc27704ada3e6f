"""abl(): what is learnt too fast is taken for a backdoor, and unlearned.

Reference: Li et al., NeurIPS 2021, arXiv:2110.11571 (anti-backdoor learning). For the first epochs a loss below gamma
is raised instead of lowered (local gradient ascent), so that only what is learnt faster gets far below it. The images
of lowest loss are set aside; the model is trained on the others, and then its loss on those is raised.
Departs from the paper: losses that decide are of images that are not augmented, after the last of the first epochs.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robustbench_jax.defences.data.seen import losses_of
from robustbench_jax.defences.training.standard import Standard
from robustbench_jax.keys import stream
from robustbench_jax.recipes import Recipe
from robustbench_jax.registry import register
from robustbench_jax.training import Run, Trained, TrainingDefence, fit_with_curve
from robustbench_jax.types import Classifier, Dataset, UserError, record, require_positive, static


@record
class LocalAscent(TrainingDefence):
    """gamma: below which the loss of an image is raised."""

    gamma: float

    def loss(self, logits: jax.Array, y: jax.Array) -> jax.Array:
        each = optax.softmax_cross_entropy_with_integer_labels(logits, y)
        return jnp.mean(jnp.sign(jax.lax.stop_gradient(each) - self.gamma) * each)


@record
class Ascent(TrainingDefence):
    """The loss is raised."""

    def loss(self, logits: jax.Array, y: jax.Array) -> jax.Array:
        return -jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))


@register("training", "abl", paper="li2021abl", parts={"unlearning": "recipe"})
@record
class ABL(TrainingDefence):
    """early: epochs, of the recipe's, with local ascent below `gamma`; isolated: share of the images that are unlearned
    by the recipe `unlearning`.
    """

    early: int = static(default=2)
    gamma: float = 0.5
    isolated: float = 0.01
    unlearning: Any = "sgd(epochs=20, batch_size=32, learning_rate=5e-4)"

    def __post_init__(self):
        require_positive("abl", early=self.early, gamma=self.gamma)
        if not 0 < self.isolated < 0.5:
            raise UserError(f"abl: isolated = {self.isolated} must be above 0 and below 0.5")

    def loop(self, key: jax.Array, model: Classifier, data: Dataset, recipe: Recipe, run: Run) -> Trained:
        """The curve is that of the training on what is left."""
        if self.early >= recipe.epochs:
            raise UserError(f"abl: early = {self.early} of {recipe.epochs} epochs: some must be left after them")
        first = dataclasses.replace(recipe, epochs=self.early)
        ascent = LocalAscent(self.gamma)
        begun, _ = fit_with_curve(stream(key, "early"), model, data, first, defence=ascent, run=run.inside("early"))
        order = np.argsort(losses_of(begun, data), kind="stable")
        count = max(1, round(self.isolated * len(data)))
        fast, rest = (data.rows(np.sort(rows)) for rows in (order[:count], order[count:]))
        later = dataclasses.replace(recipe, epochs=recipe.epochs - self.early)
        plain = {"defence": Standard(), "run": run.inside("rest")}
        trained, curve = fit_with_curve(stream(key, "rest"), begun, rest, later, **plain)
        again = dataclasses.replace(self.unlearning, batch_size=min(self.unlearning.batch_size, count))
        return fit_with_curve(stream(key, "unlearn"), trained, fast, again, defence=Ascent())[0], curve
