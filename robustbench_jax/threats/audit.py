"""The audit of a private training: is it as private as it promises?

One training: some training images are replaced by canaries, each of which is trained on or not by a coin of its own.
How well an auditor tells which bounds the privacy loss from below; a bound above what the training promises is a
contradiction (bench/collisions.py). The promise is for the number of images that are expected to be trained on.
Shapes: m canaries.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from robustbench_jax import metrics
from robustbench_jax.keys import stream
from robustbench_jax.ops.accounting import Guarantee
from robustbench_jax.ops.auditing import epsilon_lower
from robustbench_jax.ops.auditing_fdp import epsilon_lower_fdp, epsilon_of_mu, mu_lower
from robustbench_jax.ops.canaries import Canaries
from robustbench_jax.ops.judge import classify
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import register
from robustbench_jax.suspects import Victim
from robustbench_jax.threats.lab import Lab
from robustbench_jax.types import Dataset, Outcome, UserError

DELTA = 1e-5  # of a training that promises nothing


@register("threat", "audit", trains=True, verb="privacy")
def run(
    key: jax.Array,
    lab: Lab,
    data: Dataset,
    attack: Any,
    budget: Canaries,
    *,
    runtime: Runtime = Runtime(),
    report: Callable[[int], None] = lambda settled: None,
) -> Outcome:
    """Trains once with half of the canaries, and bounds the privacy loss. Accuracy is that on the test images `data`.

    Artefacts: scores float[m], included bool[m], guesses int[m]. The key is consumed.
    """
    images = len(lab.data)
    if 2 * budget.n > images:
        raise UserError(f"canaries({budget.n}): there are {images} training images; at most half may be canaries")
    rows = np.asarray(jax.random.permutation(stream(key, "rows"), images))
    planted, kept = rows[: budget.n], np.sort(rows[budget.n :])
    classes = lab.data.classes
    canaries = Dataset(
        *attack.plant(stream(key, "plant"), lab.data.x[planted], lab.data.y[planted], len(classes)), classes, "canaries"
    )
    included = np.asarray(jax.random.bernoulli(stream(key, "coins"), 0.5, (budget.n,)))
    x = np.concatenate([lab.data.x[kept], canaries.x[included]])
    y = np.concatenate([lab.data.y[kept], canaries.y[included]])
    trained_on = Dataset(x, y, classes, lab.data.name)
    victim = lab.fit(trained_on)
    asked = Victim(victim, attack.access, runtime)
    scores = attack.score(stream(key, "score"), asked, canaries)
    said = attack.guesses(scores)
    promised = lab.guarantee(len(trained_on)) if lab.guarantee is not None else None
    test = classify(victim, data.x, runtime) == data.y
    found = {"clean_accuracy": metrics.proportion("clean_accuracy", test)}
    found |= bounds(attack.bound, scores, included, said, promised) | lab.promises(trained_on)
    report(len(data))
    artefacts = {"scores": scores, "included": included, "guesses": said}
    return Outcome(found, {"clean_correct": test}, counts={"forward_evaluations": asked.queries}, artefacts=artefacts)


def bounds(
    chosen: str, scores: np.ndarray, included: np.ndarray, said: np.ndarray, promised: Guarantee | None
) -> dict[str, metrics.Metric]:
    """What guesses int [m] about canaries show of the privacy loss at the promise's delta. chosen: the bound that
    is held against the promise: one only, so that it holds with its confidence.
    """
    right, made, canaries = int(np.sum((said != 0) & ((said > 0) == included))), int(np.sum(said != 0)), len(said)
    guessed, delta = (canaries, made, right), promised.delta if promised else DELTA
    fdp = epsilon_lower_fdp(*guessed, delta)
    lower = {"binomial": lambda: epsilon_lower(*guessed, delta), "fdp": lambda: fdp}[chosen]()
    return {
        "epsilon_lower": metrics.number("epsilon_lower", lower, canaries),
        "epsilon_lower_fdp": metrics.number("epsilon_lower_fdp", fdp, canaries),
        "epsilon_gaussian": metrics.number("epsilon_gaussian", epsilon_of_mu(mu_lower(*guessed), delta), canaries),
        "guesses_right": metrics.proportion("guesses_right", np.arange(made) < right),
        "membership_auc": metrics.area("membership_auc", scores[~included], scores[included]),
    }
