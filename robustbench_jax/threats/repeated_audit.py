"""The audit of a private training by repeating it: with one canary and without, many times over.

What no single training shows: with n runs on each side and no error the bound reaches log n - 1.3 at 95% (2.82 for 64
runs that are judged, 4.23 for 256), and nothing is supposed of how canaries see each other. One half of the runs fixes
the threshold, the other half bounds the privacy loss; neighbours differ by one example that is added.
Shapes: n runs on each side.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from robustbench_jax import metrics
from robustbench_jax.keys import stream
from robustbench_jax.ops.error_rates import epsilon_lower_errors
from robustbench_jax.ops.judge import classify
from robustbench_jax.ops.runs import Runs
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import register
from robustbench_jax.suspects import Victim
from robustbench_jax.threats.audit import DELTA
from robustbench_jax.threats.lab import Lab
from robustbench_jax.types import Dataset, Outcome, UserError


@register("threat", "repeated_audit", trains=True, verb="privacy")
def run(
    key: jax.Array,
    lab: Lab,
    data: Dataset,
    attack: Any,
    budget: Runs,
    *,
    runtime: Runtime = Runtime(),
    report: Callable[[int], None] = lambda settled: None,
) -> Outcome:
    """Trains 2 n models. Accuracy on the test images `data` is that of the first that was trained without the canary.

    Artefacts: scores_without and scores_with float[n], the second halves of which are judged, canary uint8[D]. The key
    is consumed.
    """
    images = len(lab.data)
    if attack.images > images:
        raise UserError(f"multi_run_audit: images = {attack.images}: there are {images} training images")
    rows = np.sort(np.asarray(jax.random.permutation(stream(key, "rows"), images))[: attack.images])
    without = lab.data.rows(rows)
    canary, label = attack.plant(stream(key, "plant"), without.x.shape[1:], len(without.classes))
    with_it = Dataset(
        np.concatenate([without.x, np.repeat(canary[None], attack.copies, 0)]),
        np.concatenate([without.y, np.full(attack.copies, label, without.y.dtype)]),
        *(without.classes, without.name),
    )
    promised = _weaker(lab, (len(without), len(with_it)))
    sides = [lab.fit_shadows(world, [np.arange(len(world))] * budget.n) for world in (without, with_it)]
    asked = [Victim(model, attack.access, runtime) for models in sides for model in models]
    scores = np.array([attack.score(victim, canary, label) for victim in asked]).reshape(2, budget.n)
    half = budget.n // 2
    limit, (absent, present) = attack.threshold(*scores[:, :half]), scores[:, half:]
    alarms, misses = int(np.sum(absent > limit)), int(np.sum(present <= limit))
    delta = promised.delta if promised else DELTA
    bound = epsilon_lower_errors(alarms, half, misses, half, delta, attack.copies)
    test = classify(sides[0][0], data.x, runtime) == data.y
    found = {
        "clean_accuracy": metrics.proportion("clean_accuracy", test),
        "epsilon_lower": metrics.number("epsilon_lower", bound, 2 * half),
        "guesses_right": metrics.proportion("guesses_right", np.arange(2 * half) >= alarms + misses),
        "membership_auc": metrics.area("membership_auc", absent, present),
    }
    if promised:
        found["epsilon"] = metrics.promise(promised)
    report(len(data))
    artefacts = {"scores_without": scores[0], "scores_with": scores[1], "canary": canary}
    counts = {"forward_evaluations": sum(victim.queries for victim in asked)}
    return Outcome(found, {"clean_correct": test}, counts=counts, artefacts=artefacts)


def _weaker(lab: Lab, sizes: tuple[int, int]) -> Any:
    """Of what trainings on so many images promise, the one of the larger epsilon; None where they promise nothing."""
    if lab.guarantee is None:
        return None
    return max((lab.guarantee(size) for size in sizes), key=lambda promise: promise.epsilon)
