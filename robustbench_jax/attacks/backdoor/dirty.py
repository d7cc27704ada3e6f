"""What dirty-label backdoors share: rows of other classes get the trigger and the attacker's label.

Images that have that label already are not chosen, so that every poison is one (BackdoorBench chooses from all).
"""

import jax

from robustbench_jax.keys import stream
from robustbench_jax.poisons import PoisonedDataset, PoisoningAttack, Trigger, changed, chosen, require_class, stamped
from robustbench_jax.types import Classifier, Dataset, UserError

RELABELS = ("all_to_one", "all_to_all")


class DirtyLabel(PoisoningAttack):
    """target: the class that triggered images are to be taken for; relabels: see poisons.Trigger."""

    target: int
    relabels: str

    def __post_init__(self):
        if self.relabels not in RELABELS:
            raise UserError(f"{self.registered[1]}: relabels = {self.relabels!r}; there are: {', '.join(RELABELS)}")

    def trigger(self, key: jax.Array, data: Dataset) -> Trigger:
        """What is put on images like those of `data`."""
        raise NotImplementedError

    def training_trigger(self, trigger: Trigger) -> Trigger:
        """What is put on training images, where that is another one (a weaker blend)."""
        return trigger

    def strengthened(
        self, key: jax.Array, trigger: Trigger, data: Dataset, references: tuple[Classifier, ...]
    ) -> Trigger:
        """What the attacker makes of the trigger with the help of models; not called where nothing is poisoned."""
        return trigger

    def poison(
        self, key: jax.Array, data: Dataset, count: int, references: tuple[Classifier, ...] = ()
    ) -> PoisonedDataset:
        require_class(self.registered[1], "target", self.target, len(data.classes))
        trigger = self.trigger(stream(key, "trigger"), data)
        trigger = self.strengthened(stream(key, "strengthen"), trigger, data, references) if count else trigger
        labels = trigger.label(data.y, len(data.classes))
        rows, flags = chosen(stream(key, "rows"), labels != data.y, count)
        x = stamped(stream(key, "stamp"), self.training_trigger(trigger), data.x[rows], rows)
        return changed(data, rows, x=x, y=labels[rows], trigger=trigger, flags=flags)
