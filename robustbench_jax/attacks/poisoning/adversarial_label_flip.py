"""adversarial_label_flip(): the images that a surrogate is surest of get the label it thinks least likely.

Reference: Paudice, Munoz-Gonzalez & Lupu, ECML workshops 2018, arXiv:1803.00992, choose flips by the loss on held-out
data, one by one; far flips in the sense of Xiao, Xiao & Eckert, ECAI 2012, are the cheap form of it.
Departs from the paper: all flips are chosen at once, by one surrogate, largest margin first.
"""

import jax
import numpy as np

from robustbench_jax.ops.judge import predict
from robustbench_jax.poisons import PoisonedDataset, PoisoningAttack, changed
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, record


@register("attack", "adversarial_label_flip", threat="poisoning", access="poison_only", paper="paudice2018")
@record
class AdversarialLabelFlip(PoisoningAttack):
    """No arguments: the budget says how many."""

    goal = "availability"
    labels_only = True
    references = 1

    def poison(
        self, key: jax.Array, data: Dataset, count: int, references: tuple[Classifier, ...] = ()
    ) -> PoisonedDataset:
        if not count:
            return changed(data, np.arange(0))
        logits = predict(references[0], data.x)
        own = logits[np.arange(len(data)), data.y]
        away = np.where(np.eye(logits.shape[1], dtype=bool)[data.y], -np.inf, logits)
        surest = np.argsort(-(own - away.max(-1)), kind="stable")[:count]
        return changed(data, np.sort(surest), y=np.argmin(logits[np.sort(surest)], axis=-1))
