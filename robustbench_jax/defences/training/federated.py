"""federated(rule, clients): many clients with images of their own, and a server that aggregates what they send.

Reference: robust aggregation with client momentum: Karimireddy, He & Jaggi, ICML 2021, arXiv:2012.10333; Farhadkhani et
al., ICML 2022, arXiv:2205.12173. The recipe says how many images a client draws in a step, and the learning rate.
"""

from typing import Any

import jax

from robustbench_jax.federation import ByzantineAttack, federate, shards
from robustbench_jax.keys import stream
from robustbench_jax.recipes import Recipe
from robustbench_jax.registry import register
from robustbench_jax.training import Run, Trained, TrainingDefence
from robustbench_jax.types import Classifier, Dataset, UserError, record, require_positive, static


@register(
    "training",
    "federated",
    paper="karimireddy2021",
    parts={"rule": "aggregation"},
    given=("attack", "f"),
    surrogate="standard",
)
@record
class Federated(TrainingDefence):
    """rule: of aggregation. dirichlet: how alike the clients' classes are, smaller for less; classes_each: how many
    pieces of the images, sorted by class, a client has; 0 and 0 for images dealt out evenly. momentum: of the clients.
    declared: how many Byzantine clients the rule is told of; -1 for as many as there are.
    """

    rule: Any = "trimmed_mean"
    clients: int = static(default=20)
    dirichlet: float = static(default=0.0)
    classes_each: int = static(default=0)
    momentum: float = 0.9
    declared: int = static(default=-1)
    attack: Any = static(default=None)
    f: int = static(default=0)

    def __post_init__(self):
        require_positive("federated", clients=self.clients)
        for name in ("dirichlet", "classes_each"):
            if getattr(self, name) < 0:
                raise UserError(f"federated: {name} = {getattr(self, name)} must be at least 0")
        if self.dirichlet and self.classes_each:
            raise UserError(f"federated: dirichlet = {self.dirichlet} and classes_each = {self.classes_each}: give one")
        if isinstance(self.momentum, float) and not 0 <= self.momentum < 1:
            raise UserError(f"federated: momentum = {self.momentum} must be at least 0 and below 1")

    def against(self, attack: ByzantineAttack, f: int) -> "Federated":
        """With f clients in the hands of an attacker."""
        return self.replace(attack=attack, f=f)

    def loop(self, key: jax.Array, model: Classifier, data: Dataset, recipe: Recipe, run: Run) -> Trained:
        """A run that was killed begins anew."""
        dealt = shards(stream(key, "shards"), data.y, self.clients, self.dirichlet, self.classes_each)
        declared = self.f if self.declared < 0 else self.declared
        return federate(
            stream(key, "federate"),
            model,
            data,
            recipe,
            dealt,
            self.rule,
            momentum=self.momentum,
            declared=declared,
            attack=self.attack,
            f=self.f,
            report=run.report,
        )
