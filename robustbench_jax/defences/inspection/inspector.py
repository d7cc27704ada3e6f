"""What inspections of a model are: is there a backdoor in it?

A score says nothing until it is compared with those of clean models: tables give the area under the ROC curve over a
population of clean and of poisoned models, and a verdict only with the false alarms that it gives on clean ones.
Shapes: C classes.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from robustbench_jax.types import Classifier, Dataset


@dataclass(frozen=True)
class Inspection:
    """score: how suspicious the model is, larger for more; accused bool[C]: the classes that the published rule takes
    for targets of a backdoor, or bool[1], whether it takes the model for backdoored, where it names no class; arrays by
    name: what was found, of each class [C, ...] where it looks at them; flags: what casts doubt on it.
    """

    score: float
    accused: np.ndarray
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    flags: tuple[str, ...] = ()


class Inspector:
    """What a registered inspection is."""

    registered: tuple[str, str]
    facts: dict[str, Any]

    def inspect(self, key: jax.Array, model: Classifier, trusted: Dataset) -> Inspection:
        """Looks for a backdoor with the help of trusted images. The key is consumed."""
        raise NotImplementedError
