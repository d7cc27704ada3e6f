"""adaptive(attack): the attack that has looked at the defence first, and goes round everything that it saw there.

References: Tramer et al., NeurIPS 2020, arXiv:2002.08347; Athalye, Carlini & Wagner, ICML 2018, arXiv:1802.00420;
against saturated logits the margin loss of Carlini & Wagner, S&P 2017, arXiv:1608.04644.
Departs from them: they write one attack for each defence by hand. What can be read off the model is gone round here; a
defence with another secret deserves an attack of its own beside it.

What it sees -> what it does, each a stage on the survivors of those before:
the attack as it is; the same, and once more on the margin, which no scale of the logits saturates,
  a front, or what says how gradients pass it  -> past the front (bpda)
  rounding anywhere                            -> past rounding (bpda)
  randomness                                   -> the mean of `samples` draws (eot)
an undefended model inside                     -> transfer from it, on the margin
anything                                       -> square: `queries` scores and no gradient
That a model may give no answer every attack sees (ops/views.py, Answering).
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from robustbench_jax.attacks.evasion.bpda import BPDA
from robustbench_jax.attacks.evasion.eot import EOT
from robustbench_jax.attacks.evasion.pgd import PGD
from robustbench_jax.attacks.evasion.square import Square
from robustbench_jax.attacks.evasion.transfer import Transfer
from robustbench_jax.attacks.evasion.uniform_noise import UniformNoise
from robustbench_jax.attacks.evasion.wrapped import Wrapped, require_gradients, require_single
from robustbench_jax.ops.straight_through import rounds
from robustbench_jax.registry import register
from robustbench_jax.types import EvasionAttack, record, require_positive, static

UNSATURATED = {"cross_entropy": "margin", "ce": "dlr"}  # by the loss that an attack has


@dataclass(frozen=True)
class Sight:
    """What can be seen of a model: does it draw, has it a front, does it round, also inside its twin; is there a twin?
    classes: how many.
    """

    draws: bool
    front: bool
    rounds: bool
    twin_rounds: bool
    twin: bool
    classes: int


@register("attack", "adaptive", threat="evasion", paper="tramer2020", parts={"attack": "attack"}, given=("sight",))
@record
class Adaptive(EvasionAttack):
    """samples: draws for each evaluation of a randomised model. queries: of the gradient-free attack, which is
    `square`, or random points where square does not know the budget.
    """

    attack: Any
    samples: int = static(default=20)
    queries: int = static(default=1000)
    sight: Any = static(default=None)
    composite = True

    def __post_init__(self):
        require_positive("adaptive", samples=self.samples, queries=self.queries)
        require_single(self)
        require_gradients(self)

    @property
    def access(self) -> str:
        return self.attack.access

    @property
    def budgets(self) -> tuple[str, ...] | None:
        return self.attack.budgets

    def against(self, model: Any, shape: tuple[int, ...]) -> "Adaptive":
        return self.replace(sight=look(model, shape))

    def stages(self, budget: Any) -> tuple[EvasionAttack, ...]:
        """The attack itself until it has seen a model; then what that calls for, each under a name that says so."""
        if self.sight is None:
            return (self.attack,)
        margin = on_the_margin(self.attack, self.sight.classes)
        stages = {_called(self.attack): self.attack} | self._ways(self.attack) | self._ways(margin)
        if self.sight.twin:
            transfer = Transfer(margin, twin=True)
            stages[_called(transfer)] = transfer
        named = [attack if name == attack.called else Stage(attack, name) for name, attack in stages.items()]
        return (*named, self._without_gradients(budget))

    def _ways(self, attack: EvasionAttack) -> dict[str, EvasionAttack]:
        """The attack through what the model has in its way, by name; as it is where there is nothing."""
        seen, name, inner = self.sight, _called(attack), attack
        if seen.draws:
            name, inner = f"{name}, {self.samples} draws", EOT(attack, self.samples)
        ways = {}
        if seen.front:
            behind = BPDA(inner, "rounding") if seen.twin_rounds else inner
            ways[f"{name}, past the front"] = BPDA(behind, "front")
        if seen.rounds:
            ways[f"{name}, past rounding"] = BPDA(inner, "rounding")
        return ways or {name: inner}

    def _without_gradients(self, budget: Any) -> EvasionAttack:
        known = Square.facts["budgets"]
        return Square(self.queries) if budget.registered[1] in known else UniformNoise(self.queries)


@record
class Stage(Wrapped):
    """An attack under another name."""

    attack: Any
    name: str

    def __post_init__(self):
        pass

    @property
    def called(self) -> str:
        return self.name


def look(model: Any, shape: tuple[int, ...]) -> Sight:
    """What there is to see of a model of images [*shape]; nothing is run."""
    net, twin = model.net, model.twin
    logits = jax.eval_shape(model.keyed(jax.random.key(0)), jax.ShapeDtypeStruct(shape, jnp.float32))
    return Sight(
        draws=model.stochastic,
        front=hasattr(net, "approximated") or hasattr(net, "front"),
        rounds=rounds(model, shape),
        twin_rounds=rounds(twin, shape),
        twin=twin is not model,
        classes=logits.shape[-1] - model.rejects,
    )


def on_the_margin(attack: EvasionAttack, classes: int) -> EvasionAttack:
    """The same attack with a loss that does not saturate; itself if it has one; PGD's if it has no choice of losses."""
    if isinstance(attack, Wrapped):
        return attack.replace(attack=on_the_margin(attack.attack, classes))
    loss = getattr(attack, "loss", None)
    if loss is None or (loss == "ce" and classes < 3):
        return PGD(loss="margin")
    return attack.replace(loss=UNSATURATED.get(loss, loss))


def _called(attack: EvasionAttack) -> str:
    """With its loss, where attacks that differ in it are called alike."""
    plain = attack
    while isinstance(plain, Wrapped):
        plain = plain.attack
    return f"{attack.called}, margin" if getattr(plain, "loss", None) == "margin" else attack.called
