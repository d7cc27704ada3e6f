"""Attacks that go on where they have succeeded.

An attack that is measured may stop at its first success. What a model is trained on, or another model is to fall for,
should have all of the attack's steps.
Shapes: D input shape, C classes. Written for one example.
"""

from typing import Any

import jax
import jax.numpy as jnp

from robustbench_jax.types import EvasionAttack, Problem, State, record


@record
class Unjudged(Problem):
    """A problem in which nothing counts as a success yet."""

    def adversarial(self, logits: jax.Array) -> jax.Array:
        return jnp.zeros((), bool)


def unjudged(problem: Problem) -> Unjudged:
    return Unjudged(**vars(problem))


@record
class Unstopped(EvasionAttack):
    """The attack with all of its steps; one for the smallest perturbation, which has to know where it succeeds, is as
    it was.
    """

    attack: Any

    @property
    def access(self) -> str:
        return self.attack.access

    @property
    def steps(self) -> int:
        return self.attack.steps

    @property
    def queries(self) -> int | None:
        return self.attack.queries

    @property
    def goal(self) -> str:
        return self.attack.goal

    def target(self, key: jax.Array, logits: jax.Array, y: jax.Array) -> jax.Array:
        return self.attack.target(key, logits, y)

    def init(self, key: jax.Array, problem: Problem) -> State:
        return self.attack.init(key, self.seen(problem))

    def step(self, key: jax.Array, problem: Problem, state: State) -> State:
        return self.attack.step(key, self.seen(problem), state)

    def seen(self, problem: Problem) -> Problem:
        return problem if self.attack.minimal else unjudged(problem)
