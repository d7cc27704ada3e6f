"""What adversarial trainings in several budgets share. Robust validation watches the first of them."""

import dataclasses
from typing import Any

from robustbench_jax.defences.training.adversarial import watching
from robustbench_jax.training import TrainingDefence
from robustbench_jax.types import UserError, record


@record
class InSeveral(TrainingDefence):
    """budgets: two or more of them."""

    budgets: tuple = dataclasses.field(default=("linf(8/255)", "l2(0.5)", "l1(12)"), metadata={"static": False})

    def __post_init__(self):
        name = self.registered[1]
        if not isinstance(self.budgets, tuple) or len(self.budgets) < 2:
            raise UserError(f"{name} needs a list of budgets; write e.g. {name}([linf(8/255), l2(0.5), l1(12)])")

    @property
    def watched(self) -> tuple[Any, Any]:
        return watching(self.budgets[0])
