"""evading(attack, budget): the queries of a black-box evasion attack, one stream an image.

References: those of the attack. An attacker who hides adds noise to every query (a countermeasure to Li et al., USENIX
Security 2022, arXiv:2006.14042) or moves it (query blinding, Chen et al., SPAI 2020, arXiv:1907.05587). He learns what
the model makes of that, so that an attack which stops at its first success may stop at one that only hiding made.
What he asks for is the class of an image that the model gets right. The stream reaches its goal with the first query
that means an image within the budget (rounding to uint8 apart) which the model gets wrong.
Shapes: Q queries, D = [H, W, C] input shape.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.keys import stream
from robustbench_jax.models.features import logits_of
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.recording import Hiding, recorded
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import nearest, register
from robustbench_jax.streams import QueryStream, Stream, answered
from robustbench_jax.types import Classifier, Dataset, UserError

HALF_A_LEVEL = 0.5 / 255


@register("attack", "evading", threat="monitoring", parts={"attack": "attack", "budget": "budget"})
@dataclass(frozen=True)
class Evading(QueryStream):
    """noise: standard deviation, in units of the box, of what is added to a query; moved: by how many pixels at most it
    is moved.
    """

    attack: Any
    budget: Any
    noise: float = 0.0
    moved: int = 0
    goal = True

    def __post_init__(self):
        require_black_box("evading", self.attack, self.budget)
        if min(self.noise, self.moved) < 0:
            raise UserError(f"evading: noise = {self.noise} and moved = {self.moved} must be at least 0")

    @property
    def access(self) -> str:
        return self.attack.access

    def record(self, key, model, data, count, queries, *, runtime=Runtime()):
        victims = known_images(model, data, count, runtime)
        attack = prepared(key, self.attack, self.budget, model, data, runtime)
        hiding, own = Hiding(self.noise, self.moved), stream(key, "attack")
        found = recorded(own, attack, model, self.budget, victims.x, victims.y, queries, hiding)
        sent, meant = (answered(model, it, runtime) for it in zip(*((it.sent, it.meant) for it in found), strict=True))
        reached = [first_success(self.budget, *each) for each in zip(victims.x, victims.y, meant, strict=True)]
        return [Stream(it.x, it.logits, it.useful, at) for it, at in zip(sent, reached, strict=True)]


def require_black_box(name: str, attack: Any, budget: Any) -> None:
    """UserError for what is no evasion attack that sees answers alone, and for a budget that is not its own."""
    called = attack.registered[1]
    if attack.facts["threat"] != "evasion" or attack.access not in ("scores", "labels"):
        raise UserError(f"{name}: {called} is no evasion attack that sees scores or labels alone; give e.g. square")
    known, given = attack.budgets, budget.registered[1]
    if known is not None and given not in known:
        raise UserError(f"{name}: {called} takes no budget '{given}'{nearest(given, known)}")


def known_images(model: Classifier, data: Dataset, count: int, runtime: Runtime) -> Dataset:
    """The first `count` images that the model gets right. UserError where there are fewer."""
    right = np.flatnonzero(logits_of(model, data.x, runtime).argmax(-1) == data.y)[:count]
    if len(right) < count:
        raise UserError(f"traffic: streams = {count}: the model gets {len(right)} of {len(data)} images right")
    return data.rows(right)


def prepared(key: jax.Array, attack: Any, budget: Any, model: Classifier, data: Dataset, runtime: Runtime) -> Any:
    """The attack with what it has to see of images beforehand."""
    if not attack.prepares:
        return attack
    return attack.prepare(stream(key, "prepare"), model, budget, data.x, data.y, runtime)


def first_success(budget: Any, x: np.ndarray, y: int, asked: Stream, heard: np.ndarray | None = None) -> int | None:
    """How many queries it took to mean an image within the budget of x uint8 [D], rounding apart, that the model gets
    wrong. heard: of which queries the answer was given; None for all.
    """
    wrong = asked.logits.argmax(-1) != y
    wrong = np.flatnonzero(wrong if heard is None else wrong & heard)
    spare = float(budget.size(jnp.full(x.shape, HALF_A_LEVEL)))
    far = np.asarray(jax.vmap(budget.size)(as_unit(asked.x[wrong]) - as_unit(x)))
    won = wrong[far <= getattr(budget, "eps", np.inf) + spare + 1e-6]
    return int(won[0]) + 1 if len(won) else None
