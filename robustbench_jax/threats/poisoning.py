"""Poisoning: what is a model worth that was trained on data which an attacker changed?

Availability attacks are to make it bad for all images: one victim, its accuracy beside that of a model trained on the
clean data from the same seed. Targeted ones are to have ONE test image taken for a class of the attacker's choice: a
poison set and a victim of its own for each, and a success is that very class. The targets are the test images `data`.
Shapes: N test images.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from robustbench_jax import metrics
from robustbench_jax.keys import per_example, stream
from robustbench_jax.ops.judge import classify
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.poisons import PoisonedDataset, PoisoningAttack
from robustbench_jax.registry import register
from robustbench_jax.threats.backdoor import controlled, poison, poison_set
from robustbench_jax.threats.lab import Lab
from robustbench_jax.threats.sanitising import sanitised
from robustbench_jax.types import Classifier, Dataset, Outcome

JUDGED = 1000  # test images, the first ones, on which each victim of a targeted attack is judged


@register("threat", "poisoning", trains=True)
def run(
    key: jax.Array,
    lab: Lab,
    data: Dataset,
    attack: PoisoningAttack,
    budget: Any,
    *,
    runtime: Runtime = Runtime(),
    report: Callable[[int], None] = lambda settled: None,
) -> Outcome:
    """Poisons the lab's training data, trains on it, defends, and judges on the test images `data`. Consumes the key.

    Arrays: clean_correct bool[N], of the model trained on clean data; robust bool[N]: right still (availability), or
    not taken for the intended class (targeted); targeted ones also intended and prediction int[N].
    """
    judge = _targeted if attack.goal == "targeted" else _availability
    return judge(key, lab, data, attack, budget, runtime, report)


def _availability(key, lab: Lab, data: Dataset, attack: PoisoningAttack, budget, runtime, report) -> Outcome:
    poisoned = poison(stream(key, "poison"), lab, attack, budget)
    clean, victim = lab.fit(lab.data), lab.fit(poisoned.dataset, controller=partial(controlled, attack, poisoned))
    model, found, artefacts = _defended(key, lab, victim, poisoned)
    right = {name: classify(m, data.x, runtime) == data.y for name, m in (("clean", clean), ("victim", model))}
    found |= metrics.availability(right["clean"], right["victim"])
    if lab.defended:
        found["undefended_accuracy"] = metrics.proportion(
            "undefended_accuracy", classify(victim, data.x, runtime) == data.y
        )
    flags = poisoned.flags
    if poisoned.subpopulation is not None:
        inside = poisoned.subpopulation.members(data.x, data.y)
        for name, judged in (("subpopulation_accuracy", "victim"), ("subpopulation_clean_accuracy", "clean")):
            found |= {name: metrics.proportion(name, right[judged][inside])} if inside.any() else {}
        flags += (f"{inside.sum()} of {len(data)} test images are of the subpopulation",)
    found["poisons"] = metrics.number("poisons", int(poisoned.poisoned.sum()), len(poisoned.dataset))
    report(len(data))
    arrays = {"clean_correct": right["clean"], "robust": right["victim"]}
    return Outcome(found, arrays, flags=flags, artefacts=artefacts | poison_set(poisoned))


def _defended(
    key: jax.Array, lab: Lab, victim: Classifier, poisoned: PoisonedDataset
) -> tuple[Classifier, dict, dict[str, np.ndarray]]:
    """What the data defence and the model defence make of the victim, metrics and artefacts."""
    model, found, artefacts = victim, {}, {}
    if lab.sanitiser is not None:
        cleaned = sanitised(stream(key, "sanitise"), lab, victim, poisoned)
        model, found, artefacts = cleaned.model, cleaned.metrics, cleaned.artefacts
    return lab.protect(stream(key, "protect"), model), found, artefacts


def _targeted(key, lab: Lab, data: Dataset, attack: PoisoningAttack, budget, runtime, report) -> Outcome:
    classes, count = len(data.classes), budget.size(len(lab.data))
    clean = lab.fit(lab.data)
    before = classify(clean, data.x, runtime)
    intended = intentions(stream(key, "intended"), data.y, classes)
    keys = per_example(stream(key, "poison"), np.arange(len(data)))
    judged = lab.test.take(min(JUDGED, len(lab.test)))
    taken, accuracies, flags, sets = [], [], {}, {}
    for i in range(len(data)):
        own = (keys[i], data.x[i], int(data.y[i]), int(intended[i]))
        poisoned = lab.poisoned(attack, count, lambda rows, seen, own=own: _craft(attack, own, rows, count, seen))
        victim = lab.fit(poisoned.dataset)
        model, _, _ = _defended(jax.random.fold_in(key, i), lab, victim, poisoned)
        taken.append(int(classify(model, data.x[i : i + 1], runtime)[0]))
        accuracies.append(float(np.mean(classify(model, judged.x, runtime) == judged.y)))
        flags |= dict.fromkeys(poisoned.flags)
        sets |= {f"{name}_{i}": value for name, value in poison_set(poisoned).items()}
        report(i + 1)
    taken = np.array(taken, np.int32)
    found = metrics.targeted_poisoning(before == data.y, taken == intended, before == intended, np.array(accuracies))
    found["poisons"] = metrics.number("poisons", count, len(lab.data))
    arrays = {"clean_correct": before == data.y, "robust": taken != intended, "prediction": taken, "intended": intended}
    return Outcome(found, arrays, flags=tuple(flags), artefacts=sets)


def _craft(attack, own: tuple, rows: Dataset, count: int, surrogates: tuple) -> PoisonedDataset:
    key, x, y, intended = own
    return attack.craft(key, rows, count, x, y, intended, surrogates)


def intentions(key: jax.Array, y: np.ndarray, classes: int) -> np.ndarray:
    """int [N]: for each image another class than its own, evenly."""
    away = jax.vmap(lambda k: jax.random.randint(k, (), 1, classes))(per_example(key, np.arange(len(y))))
    return ((np.asarray(y) + np.asarray(away)) % classes).astype(np.int32)
