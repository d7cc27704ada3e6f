"""What backdoors with covers share: some images carry a part of the trigger and keep their label.

Reference: Qi et al., ICLR 2023 (Revisiting the Assumption of Latent Separability): poisons and covers carry parts of
the trigger, drawn for each image, so that the two do not separate in feature space. The budget is for both.
"""

import jax
import numpy as np

from robustbench_jax.keys import stream
from robustbench_jax.poisons import PoisonedDataset, PoisoningAttack, Trigger, changed, chosen, require_class, stamped
from robustbench_jax.types import Classifier, Dataset, UserError


class Covered(PoisoningAttack):
    """target: the class that triggered images are to be taken for; covers: how many images keep their label for each
    that loses it.
    """

    target: int
    covers: float

    def __post_init__(self):
        if self.covers < 0:
            raise UserError(f"{self.registered[1]}: covers = {self.covers} must be at least 0")

    def trigger(self, key: jax.Array, data: Dataset) -> Trigger:
        """What is put on images like those of `data` at test time."""
        raise NotImplementedError

    def training_trigger(self, trigger: Trigger) -> Trigger:
        """What is put on training images."""
        raise NotImplementedError

    def poison(
        self, key: jax.Array, data: Dataset, count: int, references: tuple[Classifier, ...] = ()
    ) -> PoisonedDataset:
        require_class(self.registered[1], "target", self.target, len(data.classes))
        trigger = self.trigger(stream(key, "trigger"), data)
        order, flags = chosen(stream(key, "rows"), data.y != self.target, count)
        order = np.asarray(jax.random.permutation(stream(key, "which"), order))
        relabelled = round(len(order) / (1 + self.covers))
        rows = np.sort(order)
        x = stamped(stream(key, "stamp"), self.training_trigger(trigger), data.x[rows], rows)
        y = np.where(np.isin(rows, order[:relabelled]), self.target, data.y[rows])
        return changed(data, rows, x=x, y=y, trigger=trigger, flags=flags)
