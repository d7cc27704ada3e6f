"""What adversarial trainings in one ball share: the ball, the inner ascent's steps, and what is watched meanwhile."""

from typing import Any

from robustbench_jax.ops.balls import Ball
from robustbench_jax.registry import build
from robustbench_jax.training import TrainingDefence
from robustbench_jax.types import UserError, record, require_positive

WATCHING = "pgd(steps=10)"


@record
class Adversarial(TrainingDefence):
    """budget: any ball. The inner ascent takes `steps` moves of `step_size`, a fraction of the radius; the usual ones,
    10 of 2/255 at 8/255, are the default.
    """

    budget: Any = "linf(8/255)"
    steps: int = 10
    step_size: float = 0.25

    def __post_init__(self):
        name = self.registered[1]
        require_ball(name, self.budget)
        require_positive(name, steps=self.steps, step_size=self.step_size)

    @property
    def watched(self) -> tuple[Any, Any]:
        return watching(self.budget)


def watching(budget: Any) -> tuple[Any, Any]:
    """The attack that validation during adversarial training runs, and its budget."""
    return build("attack", WATCHING), budget


def require_ball(owner: str, budget: Any) -> None:
    """UserError for a budget that is no norm ball."""
    kind, name = getattr(budget, "registered", ("budget", None))
    if kind == "budget" and name is not None and not isinstance(budget, Ball):
        raise UserError(f"{owner}: budget = {name}(...) is no norm ball; write e.g. linf(8/255)")


def require_single(owner: str, attack: Any) -> None:
    """UserError for a cascade."""
    if getattr(attack, "composite", False):
        raise UserError(f"{owner}: attack = cascade(...) has no single result; give one attack")


def require_at_least_0(owner: str, **values: Any) -> None:
    """UserError for a negative number; traced values pass."""
    for name, value in values.items():
        if isinstance(value, int | float) and value < 0:
            raise UserError(f"{owner}: {name} = {value} must be at least 0")
