"""The nouns of attribute inference: what an attacker knows of a record but for one thing, and what he may ask.

An attacker has records without their private attribute, with their labels, and complete records of his own, of the same
source. Much of an attribute can be told from the rest of a record by anybody who has such complete ones: `impute` does,
without any model, and an attack counts only above it (Jayaraman & Evans, CCS 2022, arXiv:2209.01292).
Shapes: N records, K complete ones, V values of the attribute, C classes, F features, D = [H, W, C].
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from robustbench_jax.models.features import features_of
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.regression import chosen_regression, log_shares
from robustbench_jax.suspects import Victim, log_probability
from robustbench_jax.types import Attribute, Dataset

FLOOR = 0.5  # added to counts, so that no share is 0


@dataclass(frozen=True, eq=False)
class Records:
    """data: with nothing in the attribute's place; complete: the attacker's own. victim: what is asked. training_loss:
    the victim's mean loss on what it was trained on. representation [N, F], of_complete [K, F]: the victim's features
    of the whole records, for attacks on these alone.
    """

    data: Dataset
    complete: Dataset
    victim: Victim
    training_loss: float = 0.0
    representation: np.ndarray | None = None
    of_complete: np.ndarray | None = None

    @property
    def attribute(self) -> Attribute:
        return self.complete.attribute

    @cached_property
    def prior(self) -> np.ndarray:
        """[V]: how common each value is among the complete records."""
        counts = np.bincount(self.attribute.values, minlength=len(self.attribute.names)) + FLOOR
        return counts / counts.sum()

    @cached_property
    def answers(self) -> np.ndarray:
        """float64 [N, V, C]: what the victim says of each record with each value in it."""
        return self.of_every(self.data.x)

    def of_every(self, x: np.ndarray) -> np.ndarray:
        values = range(len(self.attribute.names))
        return np.stack([self.victim.ask(self.attribute.written(x, v)) for v in values], axis=1)

    @cached_property
    def evidence(self) -> np.ndarray:
        """[N, V]: the logarithm of the probability that the victim gives the label, with each value."""
        each = [log_probability(self.answers[:, v], self.data.y) for v in range(self.answers.shape[1])]
        return np.stack(each, axis=1)


class AttributeAttack:
    """What a registered attack on attributes is.

    facts: threat="attribute"; access="scores" or "labels" of the victim, "features" of the whole record, or "none".
    """

    registered: tuple[str, str]
    facts: dict[str, Any]

    @property
    def access(self) -> str:
        return self.facts["access"]

    @property
    def budgets(self) -> tuple[str, ...]:
        return ("complete",)

    def score(self, key: jax.Array, records: Records) -> np.ndarray:
        """float [N, V], finite, larger for likelier values. The key is consumed."""
        raise NotImplementedError


def impute(records: Records, label: bool = True) -> np.ndarray:
    """log p(value | rest of the record, label) [N, V] from the complete records alone: a softmax regression for each
    label, on the pixels where the attribute is part of the record; how common values are, else. Without the label where
    that is not wanted.
    """
    seen = described(records.complete, label)
    weights = chosen_regression(seen, records.attribute.values, len(records.prior))
    return log_shares(described(records.data, label), weights)


def described(data: Dataset, labelled: bool = True) -> np.ndarray:
    """[N, F]: the label, and every pixel but those of the attribute, for each label apart and for all together."""
    label = np.eye(len(data.classes))[data.y]
    if data.attribute.place is None:
        return label
    x = as_unit(data.attribute.written(data.x, None)).reshape(len(data), -1)
    x = x[:, ~in_place(data.attribute, x.shape[1])]
    if not labelled:
        return x
    return np.concatenate([label, x, (label[:, :, None] * x[:, None]).reshape(len(x), -1)], axis=1)


def in_place(attribute: Attribute, pixels: int) -> np.ndarray:
    """bool [pixels]: which of the flattened pixels hold the attribute."""
    marks = np.zeros(pixels, bool)
    marks[slice(*attribute.place)] = True
    return marks


def seen_by(victim: Victim, x: np.ndarray) -> np.ndarray:
    """The features [N, F] of records x uint8 [N, D], counted as questions."""
    victim.queries += len(x)
    return features_of(victim.model, x, victim.runtime)
