"""cascade([a, b, ...]): each attack sees only the examples that survived the ones before it.

Reference: the worst-case evaluation of Carlini et al., 2019, arXiv:1902.06705, section 4.3; as a cascade in
AutoAttack, Croce & Hein, ICML 2020, arXiv:2003.01690.
"""

import dataclasses
from typing import Any

from robustbench_jax.registry import register
from robustbench_jax.types import EvasionAttack, UserError, record


@register("attack", "cascade", threat="evasion", paper="carlini2019", parts={"attacks": "attack"})
@record
class Cascade(EvasionAttack):
    """An example is robust if no attack of the list breaks it; the first that does ends it."""

    composite = True
    attacks: tuple = dataclasses.field(metadata={"static": False})

    def __post_init__(self):
        if not isinstance(self.attacks, tuple) or not self.attacks:
            raise UserError("cascade needs a list of attacks; write e.g. cascade([fgsm, pgd(steps=40)])")
        if any(getattr(attack, "certify_first", None) is not None for attack in self.attacks):
            raise UserError("cascade: an attack inside it has certify_first, which only autoattack by itself heeds")

    def against(self, model: Any, shape: tuple[int, ...]) -> "Cascade":
        return self.replace(attacks=tuple(attack.against(model, shape) for attack in self.attacks))

    def stages(self, budget: Any) -> tuple[EvasionAttack, ...]:
        """The attacks in order, cascades within it unfolded."""
        return tuple(stage for attack in self.attacks for stage in attack.stages(budget))

    @property
    def budgets(self) -> tuple[str, ...] | None:
        """What every part knows."""
        known = [attack.budgets for attack in self.attacks if attack.budgets is not None]
        return tuple(name for name in known[0] if all(name in other for other in known)) if known else None

    @property
    def access(self) -> str:
        order = ("none", "labels", "scores", "gradients")
        return max((attack.access for attack in self.attacks), key=order.index)
