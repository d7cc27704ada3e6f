"""eot(attack): the attack's gradients averaged over a model's randomness, or over transformations of the image.

Reference: expectation over transformation, Athalye et al., ICML 2018, arXiv:1707.07397; against randomised defences,
Athalye, Carlini & Wagner, ICML 2018, arXiv:1802.00420.
Shapes: S draws. Written for one example.
Losses are averaged, so that each gradient is the mean of S; what the attack judges by is the mean of the same S logits,
where the authors' AutoAttack takes those of the last draw alone. Each evaluation is counted S times. A deterministic
model without transformations is drawn once: it would give S equal answers.
"""

from typing import Any

import jax

from robustbench_jax.attacks.evasion.wrapped import Wrapped, require_gradients
from robustbench_jax.keys import stream
from robustbench_jax.ops.gradients import Averaged
from robustbench_jax.registry import register
from robustbench_jax.types import Problem, State, record, require_positive, static


@register("attack", "eot", threat="evasion", paper="athalye2018", parts={"attack": "attack", "over": "budget"})
@record
class EOT(Wrapped):
    """samples: draws for each evaluation. over: a budget, e.g. rotation_translation(10, 2), of which each draw moves
    the image by a random point; what is handed in is the image before that.
    """

    attack: Any
    samples: int = static(default=20)
    over: Any = None

    def __post_init__(self):
        super().__post_init__()
        require_gradients(self)
        require_positive("eot", samples=self.samples)

    @property
    def queries(self) -> int | None:
        return None if self.attack.queries is None else self.attack.queries * self.samples

    def init(self, key: jax.Array, problem: Problem) -> State:
        return _scaled(super().init(key, problem), self._draws(problem))

    def step(self, key: jax.Array, problem: Problem, state: State) -> State:
        draws = self._draws(problem)
        inner = state.replace(forwards=state.forwards // draws, gradients=state.gradients // draws)
        return _scaled(super().step(key, problem, inner), draws)

    def seen(self, key: jax.Array, problem: Problem) -> Problem:
        if self._draws(problem) == 1 and self.over is None:
            return problem
        keys = jax.random.split(stream(key, "eot"), self.samples)
        return problem.replace(model=Averaged(problem.model, keys, self.over))

    def _draws(self, problem: Problem) -> int:
        return self.samples if problem.model.stochastic or self.over is not None else 1


def _scaled(state: State, draws: int) -> State:
    return state.replace(forwards=state.forwards * draws, gradients=state.gradients * draws)
