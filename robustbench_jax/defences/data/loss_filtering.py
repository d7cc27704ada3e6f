"""loss_filtering(side): images of the highest loss (wrong labels), or of the lowest (backdoors, learnt first).

References: high: trimming as in Shen & Sanghavi, ICML 2019, arXiv:1810.11874. Low: the isolation of anti-backdoor
learning, Li et al., NeurIPS 2021, arXiv:2110.11571, for which the model should have seen the data only a few times.
"""

import jax
import numpy as np

from robustbench_jax.defences.data.sanitiser import Sanitiser
from robustbench_jax.defences.data.seen import losses_of
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, Dataset, UserError, record

SIDES = ("high", "low")


@register("data_defence", "loss_filtering", paper="shen2019")
@record
class LossFiltering(Sanitiser):
    """side: which end of the losses is suspicious; remove: share of all images."""

    side: str = "high"
    remove: float = 0.05

    def __post_init__(self):
        super().__post_init__()
        if self.side not in SIDES:
            raise UserError(f"loss_filtering: side = {self.side!r}; there are: {', '.join(SIDES)}")

    def score(self, key: jax.Array, model: Classifier, data: Dataset, trusted: Dataset) -> np.ndarray:
        losses = losses_of(model, data)
        return losses if self.side == "high" else -losses
