"""mixmatch(): few answers and many images without one; the clone guesses the others and is held to its guesses.

References: MixMatch, Berthelot et al., NeurIPS 2019, arXiv:1905.02249; for extraction: Jagielski et al., USENIX
Security 2020, arXiv:1909.01838.
Departs from the papers: the clone guesses in inference mode; images are shifted, not mirrored, unless the recipe says
otherwise; there is no exponential average of the weights unless the recipe has one.
Shapes: n images with answers, B batch, C classes, D = [H, W, C'].
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from robustbench_jax.attacks.extraction.cloning import Cloning, answered, drawn
from robustbench_jax.keys import stream
from robustbench_jax.models import build_model
from robustbench_jax.registry import register
from robustbench_jax.steps import augmented
from robustbench_jax.thefts import Oracle, Stolen
from robustbench_jax.training import TrainingDefence, fit
from robustbench_jax.types import Classifier, Dataset, UserError, record, require_positive, static

GUESSES = 2  # augmented copies that a guess is the mean of


@record
class Guessing(TrainingDefence):
    """x uint8 [n, D] and answers [n, C]: what is known; the batches of the loop are what is not."""

    x: jax.Array
    answers: jax.Array
    sharpness: float
    alpha: float
    weight: float
    augmentation: str

    def objective(self, key, model, clean, x, logits, y, progress) -> jax.Array:
        count = len(clean)
        rows = jax.random.randint(stream(key, "rows"), (count,), 0, len(self.x))
        known = augmented(stream(key, "known"), self.x[rows], self.augmentation)
        again = augmented(stream(key, "again"), jnp.round(clean * 255).astype(jnp.uint8), self.augmentation)
        guess = jax.lax.stop_gradient(sharpened((_said(model, clean) + _said(model, again)) / GUESSES, self.sharpness))
        images, targets = jnp.concatenate([known, clean, again]), jnp.concatenate([self.answers[rows], guess, guess])
        mixed, wanted = blended(stream(key, "mix"), images, targets, self.alpha)
        found = jax.vmap(model)(mixed)
        supervised = jnp.mean(optax.softmax_cross_entropy(found[:count], wanted[:count]))
        held = jnp.mean((jax.nn.softmax(found[count:]) - wanted[count:]) ** 2)
        return supervised + self.weight * progress * held


def _said(model: Classifier, x: jax.Array) -> jax.Array:
    return jax.nn.softmax(jax.vmap(model)(x))


def sharpened(said: jax.Array, sharpness: float) -> jax.Array:
    """Probabilities [B, C] to the power of the sharpness, made to sum to 1 again."""
    powered = said**sharpness
    return powered / jnp.sum(powered, -1, keepdims=True)


def blended(key: jax.Array, x: jax.Array, y: jax.Array, alpha: float) -> tuple[jax.Array, jax.Array]:
    """Each image [M, D], and its target [M, C], with another one's in it, but never for more than half."""
    share = jax.random.beta(stream(key, "share"), alpha, alpha, (len(x),))
    share, other = jnp.maximum(share, 1 - share), jax.random.permutation(stream(key, "other"), len(x))
    wide = share.reshape(-1, *(1,) * (x.ndim - 1))
    return wide * x + (1 - wide) * x[other], share[:, None] * y + (1 - share[:, None]) * y[other]


@register("attack", "mixmatch", threat="extraction", access="labels", paper="jagielski2020", parts={"recipe": "recipe"})
@record
class MixMatch(Cloning):
    """sharpness: of guesses (the papers' temperature 0.5 is 2); alpha: of the shares; weight: of the guesses' loss,
    reached at the last step (75 in the first paper, whose trainings are a hundred times longer)."""

    labels: bool = True
    recipe: Any = static(default="adamw(epochs=10, learning_rate=0.002, augmentation='crop')")
    sharpness: float = 2.0
    alpha: float = 0.75
    weight: float = 10.0

    def __post_init__(self):
        super().__post_init__()
        require_positive("mixmatch", sharpness=self.sharpness, alpha=self.alpha)
        if not self.weight >= 0:
            raise UserError(f"mixmatch: weight = {self.weight} must be at least 0")

    def steal(self, key: jax.Array, oracle: Oracle, pool: Dataset) -> Stolen:
        own = self.thiefs(key, oracle, pool)
        rows = drawn(stream(key, "rows"), min(oracle.left, len(own)), len(own))
        x, answers = answered(own.x[rows], oracle.ask(own.x[rows]))
        rest = np.setdiff1d(np.arange(len(own)), rows)
        rest = Dataset(own.x[rest], np.zeros(len(rest), np.int32), pool.classes, "unanswered")
        if not len(x) or not len(rest):
            return Stolen(self.clone(stream(key, "clone"), x, answers, pool))
        fresh = build_model(self.model, x.shape[1:], answers.shape[1], stream(key, "init"))
        recipe = self.schedule(len(rest))
        known = jnp.asarray(x), jnp.asarray(answers, jnp.float32)
        defence = Guessing(*known, self.sharpness, self.alpha, self.weight, recipe.augmentation)
        return Stolen(fit(stream(key, "fit"), fresh, rest, recipe, defence=defence))
