"""The nouns of membership inference: what an attacker may ask of a victim, and what his own shadow models say.

Half of the images were trained on, and the attacker is to tell which. Shadow models are his own, so that he knows of
each of them what it was trained on. The population are images of the same source that no model was trained on.
Shapes: N images, Z of the population, M shadow models, C classes, D = [H, W, C].
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import numpy as np

from robustbench_jax.models.features import logits_of
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.types import Classifier, Dataset


@dataclass(eq=False)
class Victim:
    """Answers the attacker's questions and counts them. access: "scores" (logits) or "labels" (one-hot, 0 and 1)."""

    model: Classifier
    access: str
    runtime: Runtime = Runtime()
    queries: int = 0

    def ask(self, x: np.ndarray) -> np.ndarray:
        """float64 [N, C] of images x uint8 [N, D]."""
        self.queries += len(x)
        logits = logits_of(self.model, x, self.runtime)
        return logits if self.access == "scores" else np.eye(logits.shape[-1])[logits.argmax(-1)]


@dataclass(frozen=True, eq=False)
class Suspects:
    """data: the images in question; population: others. victim: what is asked. shadows: models, M of them, and members
    bool [M, N]: which of them was trained on which image.
    """

    data: Dataset
    population: Dataset
    victim: Victim
    shadows: tuple[Classifier, ...]
    members: np.ndarray
    asked: dict[Any, np.ndarray] = field(default_factory=dict)

    @cached_property
    def own(self) -> np.ndarray:
        """[N, C]: what the victim says of the images as they are."""
        return self.victim.ask(self.data.x)

    @cached_property
    def theirs(self) -> np.ndarray:
        """[M, N, C]: logits of the shadow models."""
        return self.of_shadows(self.data.x)

    def of_shadows(self, x: np.ndarray) -> np.ndarray:
        """float64 [M, K, C] of images x uint8 [K, D]."""
        classes = len(self.data.classes)
        found = [logits_of(model, x, self.victim.runtime) for model in self.shadows]
        return np.stack(found) if found else np.zeros((0, len(x), classes))


class MembershipAttack:
    """What a registered attack on membership is.

    facts: threat="membership"; access="scores" or "labels" of the victim. least: how many shadow models it needs.
    """

    registered: tuple[str, str]
    facts: dict[str, Any]
    least = 0

    @property
    def access(self) -> str:
        return self.facts["access"]

    @property
    def budgets(self) -> tuple[str, ...]:
        return ("shadows",)

    def score(self, key: jax.Array, suspects: Suspects) -> np.ndarray:
        """float [N], finite, larger for images that look more like members. The key is consumed."""
        raise NotImplementedError


def margin(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """log p_y - log(1 - p_y) [...] of logits [..., C], from the logits, so that nothing saturates."""
    own = np.take_along_axis(logits, np.broadcast_to(y, logits.shape[:-1])[..., None], -1)[..., 0]
    others = np.where(np.eye(logits.shape[-1], dtype=bool)[y], -np.inf, logits)
    top = others.max(-1)
    return own - top - np.log(np.sum(np.exp(others - top[..., None]), -1))


def log_probability(logits: np.ndarray, y: np.ndarray) -> np.ndarray:
    """log p_y [...] of logits [..., C]."""
    return -np.logaddexp(0.0, -margin(logits, y))
