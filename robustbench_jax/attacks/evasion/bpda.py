"""bpda(attack): the attack with gradients for a model that has none, or has useless ones.

Reference: backward pass differentiable approximation, Athalye, Carlini & Wagner, ICML 2018, arXiv:1802.00420.
Shapes: D input shape, C classes. Written for one example; how each form works: ops/straight_through.py.
The forward pass is the model's own, to the bit, so what the attack judges by is what the judge sees.
"""

from typing import Any

import jax

from robustbench_jax.attacks.evasion.wrapped import Wrapped, require_gradients
from robustbench_jax.ops.gradients import Averaged, Ensemble
from robustbench_jax.ops.straight_through import PastFront, PastRounding, Replaced
from robustbench_jax.ops.views import Answering
from robustbench_jax.registry import nearest, register
from robustbench_jax.types import Problem, UserError, record, static

FORMS = ("front", "rounding")


@register(
    "attack",
    "bpda",
    threat="evasion",
    paper="athalye2018obfuscated",
    parts={"attack": "attack", "surrogate": "pretrained"},
    given=("loaded",),
)
@record
class BPDA(Wrapped):
    """backward: "front": gradients pass a model defence as it says itself (`net.approximated`), or straight through a
    preprocessing that a net shows as `front`; a model with neither is attacked as it is. "rounding": gradients pass all
    rounding anywhere in the model.

    surrogate: a trained model whose gradient is taken instead, at the logits of the attacked one.
    """

    attack: Any
    backward: str = "front"
    surrogate: Any = static(default=None)
    loaded: Any = None

    def __post_init__(self):
        super().__post_init__()
        require_gradients(self)
        if self.backward not in FORMS:
            raise UserError(f"bpda: backward = {self.backward!r}{nearest(self.backward, FORMS)}")

    @property
    def prepares(self) -> bool:
        return self.attack.prepares or self.surrogate is not None

    def prepare(self, key: jax.Array, model: Any, budget: Any, x: Any, y: Any, runtime: Any) -> "BPDA":
        """Loads the surrogate."""
        loaded = None if self.surrogate is None else self.surrogate.load()[0]
        prepared = super().prepare(key, model, budget, x, y, runtime) if self.attack.prepares else self
        return prepared.replace(loaded=loaded)

    def seen(self, key: jax.Array, problem: Problem) -> Problem:
        if self.surrogate is not None and self.loaded is None:
            raise UserError("bpda: the attack has no surrogate before prepare(...)")
        return problem.replace(model=self._approximated(problem.model))

    def _approximated(self, model: Any) -> Any:
        if isinstance(model, Averaged):
            return model.replace(model=self._approximated(model.model))
        if isinstance(model, Answering):
            return model.replace(model=self._approximated(model.model))
        if isinstance(model, Ensemble):
            return model.replace(members=tuple(self._approximated(member) for member in model.members))
        if self.loaded is not None:
            return Replaced(model, self.loaded)
        if self.backward == "rounding":
            return PastRounding(model)
        net = getattr(model, "net", None)
        if hasattr(net, "approximated"):
            return model.replace(net=net.approximated)
        return PastFront(model) if hasattr(net, "front") else model
