"""What clean-label backdoors share: images of the target class are changed, and no label is."""

import jax
import numpy as np

from robustbench_jax.keys import stream
from robustbench_jax.poisons import PoisonedDataset, PoisoningAttack, Trigger, changed, chosen, require_class, stamped
from robustbench_jax.types import Classifier, Dataset


class CleanLabel(PoisoningAttack):
    """target: the class that triggered images are to be taken for, and whose training images are changed."""

    target: int
    clean_label = True

    def trigger(self, key: jax.Array, data: Dataset) -> Trigger:
        """What is put on images like those of `data` at test time."""
        raise NotImplementedError

    def training_trigger(self, trigger: Trigger) -> Trigger:
        """What is put on training images, where that is another one."""
        return trigger

    def prepared(self, key: jax.Array, x: np.ndarray, data: Dataset, trigger: Trigger, references: tuple) -> np.ndarray:
        """Images x uint8 [R, D] of the target class before they get the trigger (made harder to learn, for one)."""
        return x

    def poison(
        self, key: jax.Array, data: Dataset, count: int, references: tuple[Classifier, ...] = ()
    ) -> PoisonedDataset:
        require_class(self.registered[1], "target", self.target, len(data.classes))
        trigger = self.trigger(stream(key, "trigger"), data)
        mine = data.y == self.target
        rows, flags = chosen(stream(key, "rows"), mine, count)
        if not len(rows):
            return changed(data, rows, trigger=trigger, flags=flags)
        x = self.prepared(stream(key, "prepare"), data.x[rows], data, trigger, references)
        x = stamped(stream(key, "stamp"), self.training_trigger(trigger), x, rows)
        share = f"{len(rows)} of {int(mine.sum())} images of the target class are poisoned"
        return changed(data, rows, x=x, trigger=trigger, flags=(*flags, share))
