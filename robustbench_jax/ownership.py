"""The nouns of ownership: the owner and her mark, the thief and what he does to it, a suspected model.

A mark gives evidence: for each of n questions (a trigger, a bit, an image), how much the suspected model's answer
speaks for the owner. The statistic is its mean, and the p-value is its rank among the statistics of models that other
people trained on other images of the same source, without any mark: (1 + how many of them are as large) / (1 + how many
there are). Not a binomial tail at one over the number of classes: what one key asks is correlated, and an unmarked
model may well agree with all of it; and no normal fitted to the null, which may have no spread at all.
Shapes: N images, n questions, C classes, D = [H, W, C].
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from robustbench_jax.keys import stream
from robustbench_jax.recipes import Recipe
from robustbench_jax.suspects import Victim
from robustbench_jax.training import Run, Trained, TrainingDefence, fit_with_curve
from robustbench_jax.types import Classifier, Dataset, UserError, record

MARK = {"mark": True, "given": ("secret",), "surrogate": "standard"}  # what is registered of every mark


@dataclasses.dataclass(eq=False)
class Suspect(Victim):
    """A model as whoever verifies may see it: access "labels", "scores" or "weights" (and scores)."""

    def ask(self, x: np.ndarray) -> np.ndarray:
        """As of a victim; who sees the weights has the scores as well."""
        if self.access != "weights":
            return super().ask(x)
        return dataclasses.replace(self, access="scores").ask(x)

    @property
    def weights(self) -> dict[str, jax.Array]:
        if self.access != "weights":
            raise PermissionError(f"whoever sees {self.access} sees no weights")
        return self.model.params


@dataclasses.dataclass(eq=False)
class Service:
    """The owner's model behind her interface; keeps whatever was asked, uint8 [N, D], and the logits she gave."""

    model: Classifier
    mark: "Mark"
    asked: list[tuple[np.ndarray, np.ndarray]] = dataclasses.field(default_factory=list)

    def ask(self, x: np.ndarray) -> np.ndarray:
        """Logits float64 [N, C] as the mark lets them out."""
        answers = self.mark.serve(x, Victim(self.model, "scores").ask(x))
        self.asked.append((x, answers))
        return answers


@dataclasses.dataclass(frozen=True, eq=False)
class Owner:
    """What the owner can draw on for her claim: her model, the images that she trained it on, held images that nobody
    trained on, and what her service was asked.
    """

    model: Classifier
    data: Dataset
    held: Dataset
    asked: tuple[tuple[np.ndarray, np.ndarray], ...] = ()


class Mark(TrainingDefence):
    """What a registered mark is: a training that leaves a mark, or none at all (a fingerprint), and the test of it.

    facts: those of MARK (others train without it); access: what the suspected model has to show.
    secret: whatever the owner alone knows follows from it; a workshop gives each seed a secret of its own.
    """

    registered: tuple[str, str]
    facts: dict[str, Any]
    secret: int

    @property
    def access(self) -> str:
        return self.facts["access"]

    @property
    def key(self) -> jax.Array:
        """The secret key."""
        return stream(jax.random.key(self.secret), self.registered[1])

    def loop(self, key: jax.Array, model: Classifier, data: Dataset, recipe: Recipe, run: Run) -> Trained:
        """On the data as the mark changes it, with the mark embedded."""
        return fit_with_curve(key, model, self.marked(data), recipe, defence=self.embedding(model, data), run=run)

    def marked(self, data: Dataset) -> Dataset:
        """The images that are trained on, in the place of the data."""
        return data

    def embedding(self, model: Classifier, data: Dataset) -> TrainingDefence:
        """The objective that embeds the mark in a model like `model`."""
        return Plain()

    def serve(self, x: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """What the owner's service answers, [N, C], to images x uint8 [N, D] of which her model says `logits`."""
        return logits

    def claim(self, owner: Owner) -> Any:
        """What the owner deposits and is verified by: a pure function of her secret and of what she has."""
        raise NotImplementedError

    def evidence(self, claim: Any, suspect: Suspect) -> np.ndarray:
        """bool or float [n], larger for the owner's model; empty where the claim has nothing to ask."""
        raise NotImplementedError

    def forged(self, key: jax.Array, model: Classifier, images: Dataset) -> Any:
        """A claim of somebody who has the weights and some images, and embedded nothing. Consumes the key."""
        raise UserError(f"'{self.registered[1]}': nobody has shown how to forge a claim to it; choose another mark")


@record
class Plain(TrainingDefence):
    """The cross-entropy and nothing else."""


@dataclasses.dataclass(frozen=True, eq=False)
class Thief:
    """What the thief has: the stolen model with its weights, images of his own with their labels, the owner's service,
    fresh(key) (her architecture with fresh weights), a model that was trained without any theft (innocent()), and
    knowledge of the mark but not of its secret.
    """

    stolen: Classifier
    images: Dataset
    service: Service
    fresh: Callable[[jax.Array], Classifier]
    innocent: Callable[[], Classifier]
    mark: Mark


class Removal:
    """What a registered attack on ownership is.

    facts: threat="ownership"; access="weights" (the model was stolen), "labels" (its service is asked) or "none".
    forges: it does not touch the model but claims it for the thief.
    """

    registered: tuple[str, str]
    facts: dict[str, Any]
    recipe: Any = None
    forges = False

    @property
    def access(self) -> str:
        return self.facts["access"]

    @property
    def budgets(self) -> tuple[str, ...]:
        return ("images",)

    def remove(self, key: jax.Array, thief: Thief) -> Classifier:
        """The model that the thief offers as his own. The key is consumed."""
        raise NotImplementedError


def rank_p_value(value: float, null: np.ndarray) -> float:
    """(1 + how many of null [M] are at least `value`) / (1 + M): at most a share a of exchangeable unmarked models gets
    a or less, ties and all (North, Curtis & Sham, American Journal of Human Genetics 2002, 71: 439-441).
    """
    return float(1 + np.sum(np.asarray(null) >= value)) / (1 + len(null))


def statistic(evidence: np.ndarray) -> float:
    """The mean of the evidence [n]; 0 of none."""
    return float(np.mean(evidence)) if len(evidence) else 0.0
