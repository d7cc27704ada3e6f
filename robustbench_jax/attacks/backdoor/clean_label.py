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

    def rows(self, key: jax.Array, data: Dataset, count: int, references: tuple) -> tuple[np.ndarray, tuple[str, ...]]:
        """(rows, flags): which images of the target class are changed."""
        return chosen(key, data.y == self.target, count)

    def images(
        self, key: jax.Array, rows: np.ndarray, data: Dataset, trigger: Trigger, references: tuple[Classifier, ...]
    ) -> np.ndarray:
        """uint8 [R, D]: what becomes of the images of the rows int [R]. The key is shared with `trigger` and `rows`:
        streams of other names are drawn from it.
        """
        return stamped(stream(key, "stamp"), self.training_trigger(trigger), data.x[rows], rows)

    def poison(
        self, key: jax.Array, data: Dataset, count: int, references: tuple[Classifier, ...] = ()
    ) -> PoisonedDataset:
        require_class(self.registered[1], "target", self.target, len(data.classes))
        trigger = self.trigger(stream(key, "trigger"), data)
        if not count:
            return changed(data, np.arange(0), trigger=trigger)
        rows, flags = self.rows(stream(key, "rows"), data, count, references)
        x = self.images(key, rows, data, trigger, references)
        share = f"{len(rows)} of {int(np.sum(data.y == self.target))} images of the target class are poisoned"
        return changed(data, rows, x=x, trigger=trigger, flags=(*flags, share))
