"""The audit of a private training from inside: canaries in the space of gradients.

One training on all images; canaries are added to its sums by a witness, each by a coin of its own, and every noisy
gradient is seen, as privacy in the worst case allows. What is found bounds the loss from below as in threats/audit.py.
Shapes: m canaries.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from robustbench_jax import metrics
from robustbench_jax.keys import stream
from robustbench_jax.ops.canaries import Canaries
from robustbench_jax.ops.judge import classify
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import register
from robustbench_jax.threats.audit import bounds
from robustbench_jax.threats.lab import Lab
from robustbench_jax.types import Dataset, Outcome


@register("threat", "white_box_audit", trains=True, verb="privacy")
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
    """Trains once. Accuracy is that on the test images `data`. Artefacts as in audit.py. The key is consumed."""
    included = np.asarray(jax.random.bernoulli(stream(key, "coins"), 0.5, (budget.n,)))
    witness = attack.witness(stream(key, "weights"), included)
    model = lab.fit(lab.data, controller=lambda defence: attack.watched(defence, witness))
    promised = lab.guarantee(len(lab.data)) if lab.guarantee is not None else None
    said = attack.guesses(witness.seen)
    test = classify(model, data.x, runtime) == data.y
    found = {"clean_accuracy": metrics.proportion("clean_accuracy", test)}
    found |= bounds(attack.bound, witness.seen, included, said, promised) | lab.promises(lab.data)
    report(len(data))
    artefacts = {"scores": witness.seen, "included": included, "guesses": said}
    return Outcome(found, {"clean_correct": test}, counts={"steps_seen": witness.steps}, artefacts=artefacts)
