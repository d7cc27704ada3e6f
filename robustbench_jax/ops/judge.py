"""The judge: what the harness believes, whatever an attack says of itself.

A proposal is projected onto the budget once more and given to the deployed model. A randomised model is asked DRAWS
times, with keys that no attack has seen, and errs where most of its answers do (a single answer would count one lucky
draw as a success). A model that rejects an attacked image has not erred. NaN is no answer: it ends the evaluation.
Shapes: N examples, D input shape, Z the budget's points, C classes.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax.keys import stream
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.runtime import Runtime, by_slices, placed
from robustbench_jax.ops.views import answering
from robustbench_jax.types import Classifier, Problem, UserError

DRAWS = 9


@dataclass(frozen=True)
class Judged:
    """x_adv float32[N, D], the projected image; success bool[N]; size float32[N], in the budget's measure."""

    x_adv: np.ndarray
    success: np.ndarray
    size: np.ndarray


def predict(model: Classifier, x: np.ndarray, runtime: Runtime = Runtime(), key: jax.Array | None = None) -> np.ndarray:
    """Logits float32 [N, C] of images [N, D], a bucket at a time; a randomised model draws from `key`, row by row."""
    width = runtime.fit(len(x))
    model, place = placed(model, runtime, width)
    key = jax.random.key(0) if key is None else key
    return by_slices(lambda ids, part: _logits(key, model, place(ids), place(part)), [np.arange(len(x)), x], width)


def classify(model: Classifier, x: np.ndarray, runtime: Runtime = Runtime()) -> np.ndarray:
    """Predicted classes int [N]; what most of DRAWS answers say where the model is randomised.

    Raises UserError where logits are not finite.
    """
    answers = []
    for draw in range(DRAWS if model.stochastic else 1):
        logits = predict(model, x, runtime, jax.random.key(draw))
        require_finite(logits, "the model's logits of the clean images")
        answers.append(np.argmax(logits, axis=-1))
    if len(answers) == 1:
        return answers[0]
    votes = jax.nn.one_hot(np.stack(answers), logits.shape[-1]).sum(0)
    return np.asarray(jnp.argmax(votes, axis=-1))


def judge(
    model: Classifier,
    budget: Any,
    goal: str,
    x: np.ndarray,
    proposed: np.ndarray,
    y: np.ndarray,
    target: np.ndarray,
    runtime: Runtime = Runtime(),
) -> Judged:
    """Judges proposals [N, Z] for images x [N, D]. Raises UserError where the model answers NaN."""
    width = runtime.fit(len(x))
    model, place = placed(model, runtime, width)
    ids = np.arange(len(x))
    x_adv, success, size, finite = by_slices(
        lambda *part: _judge(model, budget, goal, *map(place, part)), [ids, x, proposed, y, target], width
    )
    if not finite.all():
        raise UserError(
            f"the model's logits are NaN or infinite on {np.sum(~finite)} of {len(x)} adversarial images: "
            "that is a failure of the model, not robustness"
        )
    return Judged(x_adv, success, size)


def require_finite(logits: np.ndarray, what: str) -> None:
    wrong = np.flatnonzero(~np.isfinite(logits).all(axis=-1))
    if len(wrong):
        raise UserError(f"{what} are NaN or infinite for {len(wrong)} of {len(logits)} (the first is image {wrong[0]})")


@jax.jit
def _logits(key, model, ids, x):
    def one(id, x):
        return model.keyed(jax.random.fold_in(key, id))(x)

    return jax.vmap(one)(ids, as_unit(x))


@partial(jax.jit, static_argnames="goal")
def _judge(model, budget, goal, ids, x, proposed, y, target):
    x = as_unit(x)

    def one(id, x, z, y, target):
        origin = budget.identity(x)
        z = budget.project(x, jnp.where(jnp.all(jnp.isfinite(z)), z, origin))
        x_adv = budget.render(x, z)
        problem = Problem(answering(model, y), budget, goal, x, y, target, 0)
        success, finite = _verdict(id, problem, x_adv)
        return x_adv, success, budget.size(z - origin), finite

    return jax.vmap(one)(ids, x, proposed, y, target)


def _verdict(id, problem: Problem, x_adv: jax.Array) -> tuple[jax.Array, jax.Array]:
    def answer(key):
        logits = problem.model.keyed(key)(x_adv)
        return problem.adversarial(logits), jnp.all(jnp.isfinite(logits))

    if not problem.model.stochastic:
        return answer(None)
    keys = jax.random.split(jax.random.fold_in(stream(jax.random.key(0), "judge"), id), DRAWS)
    wrong, finite = jax.vmap(answer)(keys)
    return 2 * jnp.sum(wrong) > DRAWS, jnp.all(finite)
