"""The nouns of model stealing: the victim as a thief may ask it, and what he makes of its answers.

Shapes: N images, C classes, D = [H, W, C].
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import softmax

from robustbench_jax.ops.judge import predict, require_finite
from robustbench_jax.ops.runtime import Runtime, by_slices, power_of_two
from robustbench_jax.types import Classifier, Dataset, UserError

EXACTLY = 1024  # images that are answered at once in double precision


@dataclass(eq=False)
class Oracle:
    """Answers questions until the budget is spent. access: "scores" (probabilities) or "labels" (one-hot, 0 and 1).

    A randomised victim draws anew for every question. One that may give no answer gives NaN.
    """

    model: Classifier
    access: str
    budget: int
    key: jax.Array
    runtime: Runtime = Runtime()
    queries: int = 0

    @property
    def left(self) -> int:
        return self.budget - self.queries

    def ask(self, x: np.ndarray) -> np.ndarray:
        """float64 [N, C] of images x [N, D], uint8 or float32 in [0, 1]. UserError past the budget."""
        own = self._pay(len(x))
        return self._said(predict(self.model, x, self.runtime, own))

    def ask_exactly(self, x: np.ndarray) -> np.ndarray:
        """As `ask`, of x float64, answered in double precision: what a model in this process can be asked for."""
        own = self._pay(len(x))
        with jax.enable_x64(True):
            model = self.model.replace(params=jax.tree.map(_double, self.model.params)).keyed(own)
            found = by_slices(partial(_logits, model), [x], min(EXACTLY, power_of_two(len(x))))
        return self._said(found)

    def _pay(self, count: int) -> jax.Array:
        if count > self.left:
            raise UserError(f"queries({self.budget}): {count} more were asked for where {self.left} are left")
        self.queries += count
        return jax.random.fold_in(self.key, self.queries)

    def _said(self, logits: np.ndarray) -> np.ndarray:
        require_finite(logits, "the victim's answers")
        logits = np.asarray(logits, np.float64)
        silent = logits.argmax(-1) == logits.shape[-1] - 1 if self.model.rejects else np.zeros(len(logits), bool)
        logits = logits[:, :-1] if self.model.rejects else logits
        if self.access == "labels":
            said = np.eye(logits.shape[-1])[logits.argmax(-1)]
        else:
            said = softmax(logits, -1)
        return np.where(silent[:, None], np.nan, said)


def _double(value: Any) -> Any:
    return value.astype(jnp.float64) if jnp.issubdtype(value.dtype, jnp.floating) else value


@jax.jit
def _logits(model: Classifier, x: jax.Array) -> jax.Array:
    return jax.vmap(model)(x)


@dataclass(frozen=True, eq=False)
class Stolen:
    """clone: what was made; found: numbers that the attack says of the victim, by their metrics' names."""

    clone: Classifier
    found: dict[str, float] = field(default_factory=dict)


class ExtractionAttack:
    """What a registered attack on a model's secrecy is.

    facts: threat="extraction"; access="scores" or "labels" of the victim. least: how many queries it needs.
    """

    registered: tuple[str, str]
    facts: dict[str, Any]
    least = 1

    @property
    def access(self) -> str:
        return self.facts["access"]

    @property
    def budgets(self) -> tuple[str, ...]:
        return ("queries",)

    def require(self, oracle: Oracle, shape: tuple[int, ...], classes: int) -> None:
        """UserError where it cannot work on such images within the budget, before anything is asked."""
        if oracle.budget < self.least:
            raise UserError(f"queries({oracle.budget}): '{self.registered[1]}' needs at least {self.least}")

    def steal(self, key: jax.Array, oracle: Oracle, pool: Dataset) -> Stolen:
        """Spends at most the oracle's budget. pool: images that the thief has, whose labels he does not look at; the
        training images of the victim's dataset unless the attack says which. The key is consumed.
        """
        raise NotImplementedError
