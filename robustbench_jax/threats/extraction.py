"""Extraction: how much of a model can be copied by asking it?

A thief spends his queries and makes a clone, which is compared with the victim on the test images `data`: its accuracy,
how often the two agree, right or wrong, and how often an adversarial image made on the clone alone fools the victim.
Shapes: N images, D = [H, W, C'].
"""

from collections.abc import Callable

import jax
import numpy as np

from robustbench_jax import metrics
from robustbench_jax.attacks.evasion.transfer import Transfer
from robustbench_jax.keys import stream
from robustbench_jax.ops.drive import drive
from robustbench_jax.ops.gradients import Ensemble
from robustbench_jax.ops.judge import classify
from robustbench_jax.ops.queries import Queries
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import build, register
from robustbench_jax.thefts import ExtractionAttack, Oracle
from robustbench_jax.threats.evasion import check
from robustbench_jax.types import Classifier, Dataset, Outcome, UserError

TRANSFERRED = "pgd(steps=20)"  # on the clone


@register("threat", "extraction", verb="steal", pool=True)
def run(
    key: jax.Array,
    model: Classifier,
    data: Dataset,
    attack: ExtractionAttack,
    budget: Queries,
    *,
    pool: Dataset | None = None,
    runtime: Runtime = Runtime(),
    report: Callable[[int], None] = lambda settled: None,
) -> Outcome:
    """Steals the model and compares. pool: images that the thief may have; the key is consumed.

    Arrays: clean_correct, clone_correct, agreed and transferred bool[N]. Artefacts: the clone's arrays.
    """
    check(model, data)
    if pool is None:
        raise UserError(f"{data.name} has no training images that a thief could ask about")
    oracle = Oracle(model, attack.access, budget.n, stream(key, "answers"), runtime)
    attack.require(oracle, data.x.shape[1:], len(data.classes))
    stolen = attack.steal(stream(key, "attack"), oracle, pool)
    victim, clone = classify(model, data.x, runtime), classify(stolen.clone, data.x, runtime)
    fooled = transferred(stream(key, "transfer"), model, stolen.clone, data, victim == data.y, budget.eps, runtime)
    report(len(data))
    arrays = {
        "clean_correct": victim == data.y,
        "clone_correct": clone == data.y,
        "agreed": clone == victim,
        "transferred": fooled,
    }
    found = {
        "clean_accuracy": metrics.proportion("clean_accuracy", arrays["clean_correct"]),
        "clone_accuracy": metrics.proportion("clone_accuracy", arrays["clone_correct"]),
        "agreement": metrics.proportion("agreement", arrays["agreed"]),
        "transfer_success_rate": metrics.proportion("transfer_success_rate", fooled[arrays["clean_correct"]]),
        "queries_spent": metrics.number("queries_spent", oracle.queries, oracle.queries),
    }
    found |= {name: metrics.number(name, value, oracle.queries) for name, value in stolen.found.items()}
    artefacts = {f"clone/{name}": np.asarray(value) for name, value in stolen.clone.params.items()}
    counts = {"forward_evaluations": oracle.queries + 2 * len(data)}
    return Outcome(found, arrays, counts=counts, artefacts=artefacts)


def transferred(
    key: jax.Array,
    victim: Classifier,
    clone: Classifier,
    data: Dataset,
    right: np.ndarray,
    eps: float,
    runtime: Runtime,
) -> np.ndarray:
    """bool [N]: of the images `right`, which the victim gets wrong once they are attacked on the clone."""
    rows, fooled = np.flatnonzero(right), np.zeros(len(data), bool)
    if not len(rows):
        return fooled
    attack = Transfer(build("attack", TRANSFERRED), surrogates=Ensemble((clone,), "logits"))  # it takes all its steps
    budget, part = build("budget", f"linf({eps!r})"), data.rows(rows)
    fooled[rows] = drive(key, attack, victim, budget, part.x, part.y, ids=rows, runtime=runtime).success
    return fooled
