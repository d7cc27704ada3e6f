"""Sanitising: a data defence's scores of training images, what it leaves out, and what is trained on the rest.

Shapes: N training images.
"""

from dataclasses import dataclass

import jax
import numpy as np

from robustbench_jax.keys import stream
from robustbench_jax.metrics import area, proportion
from robustbench_jax.poisons import PoisonedDataset
from robustbench_jax.threats.lab import Lab
from robustbench_jax.types import Classifier, Metric


@dataclass(frozen=True)
class Sanitised:
    """model: trained on what is left; metrics of the detection; artefacts: scores float [N] and removed bool [N]."""

    model: Classifier
    metrics: dict[str, Metric]
    artefacts: dict[str, np.ndarray]


def sanitised(key: jax.Array, lab: Lab, victim: Classifier, poisoned: PoisonedDataset) -> Sanitised:
    """Scores the poisoned data with the victim that was trained on it, and trains another one without the suspects.

    Raises ValueError where a score is not finite: a comparison with it would mean nothing.
    """
    data = poisoned.dataset
    model = victim if lab.sanitiser.looks else None
    scores = np.asarray(lab.sanitiser.score(stream(key, "score"), model, data, lab.trusted), np.float64)
    if scores.shape != (len(data),) or not np.isfinite(scores).all():
        raise ValueError(f"scores of shape {scores.shape}, {int(np.sum(~np.isfinite(scores)))} of them not finite")
    removed = np.asarray(lab.sanitiser.removed(scores, data), bool)
    found = {
        "poisons_removed": proportion("poisons_removed", removed[poisoned.poisoned]),
        "clean_removed": proportion("clean_removed", removed[~poisoned.poisoned]),
        "poison_auc": area("poison_auc", scores[~poisoned.poisoned], scores[poisoned.poisoned]),
    }
    left = lab.fit(data.rows(~removed)) if removed.any() else victim
    return Sanitised(left, found, {"scores": scores.astype(np.float32), "removed": removed})
