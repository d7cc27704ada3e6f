"""What attacks that wrap another one share: everything that they do not change is the inner attack's.

Shapes: N examples, D input shape, C classes.
"""

from typing import Any

import jax

from robustbench_jax.types import EvasionAttack, Problem, State, UserError


class Wrapped(EvasionAttack):
    """`attack`: the inner attack, a single one that is no cascade."""

    attack: Any

    def __post_init__(self):
        require_single(self)

    @property
    def access(self) -> str:
        return self.attack.access

    @property
    def budgets(self) -> tuple[str, ...] | None:
        return self.attack.budgets

    @property
    def called(self) -> str:
        return f"{self.registered[1]} {self.attack.called}"

    @property
    def steps(self) -> int:
        return self.attack.steps

    @property
    def items(self) -> int:
        return self.attack.items

    @property
    def queries(self) -> int | None:
        return self.attack.queries

    @property
    def minimal(self) -> bool:
        return self.attack.minimal

    @property
    def goal(self) -> str:
        return self.attack.goal

    @property
    def prepares(self) -> bool:
        return self.attack.prepares

    @property
    def learns(self) -> bool:
        return self.attack.learns

    def prepare(self, key: jax.Array, model: Any, budget: Any, x: Any, y: Any, runtime: Any) -> "Wrapped":
        return self.replace(attack=self.attack.prepare(key, model, budget, x, y, runtime))

    def target(self, key: jax.Array, logits: jax.Array, y: jax.Array) -> jax.Array:
        return self.attack.target(key, logits, y)

    def init(self, key: jax.Array, problem: Problem) -> State:
        return self.attack.init(key, self.seen(key, problem))

    def step(self, key: jax.Array, problem: Problem, state: State) -> State:
        return self.attack.step(key, self.seen(key, problem), state)

    def seen(self, key: jax.Array, problem: Problem) -> Problem:
        """The problem as the inner attack is shown it."""
        return problem


def require_single(attack: Any) -> None:
    """UserError where the inner attack is a cascade."""
    if attack.attack.composite:
        name, inner = attack.registered[1], attack.attack.called
        raise UserError(f"{name}: attack = {inner}(...): write cascade([{name}(...), ...]) instead")


def require_gradients(attack: Any) -> None:
    """UserError where the inner attack asks for no gradients."""
    if attack.attack.access != "gradients":
        name, inner = attack.registered[1], attack.attack.called
        raise UserError(f"{name}: attack = {inner} uses no gradients; write e.g. {name}(pgd(steps=40))")
