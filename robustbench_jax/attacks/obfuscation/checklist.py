"""checklist(attack): is it the model that is robust, or does the attack only not get through?

References: Athalye, Carlini & Wagner, ICML 2018, arXiv:1802.00420, section 3.1; Carlini et al., 2019, arXiv:1902.06705.
The checks themselves are the threat's: threats/obfuscation.py.
"""

from typing import Any

from robustbench_jax.attacks.evasion.wrapped import require_gradients, require_single
from robustbench_jax.registry import register
from robustbench_jax.types import record, require_positive, static

BALLS = ("linf", "l2", "l1")


@register("attack", "checklist", threat="obfuscation", paper="carlini2019", parts={"attack": "attack"})
@record
class Checklist:
    """attack: the white-box attack that is examined together with the model. queries: of square. samples: random points
    of the ball. times: how many times its steps the attack is given to see whether it had converged.
    """

    attack: Any
    queries: int = static(default=1000)
    samples: int = static(default=1000)
    times: int = static(default=5)
    composite = True  # nothing wraps it

    def __post_init__(self):
        require_positive("checklist", queries=self.queries, samples=self.samples, times=self.times)
        require_single(self)
        require_gradients(self)

    @property
    def access(self) -> str:
        return self.attack.access

    @property
    def called(self) -> str:
        return "checklist"

    @property
    def budgets(self) -> tuple[str, ...]:
        known = self.attack.budgets
        return tuple(ball for ball in BALLS if known is None or ball in known)
