"""Backdoors: what does a model that was trained on poisoned data make of clean images, and of images with the trigger?

The victim is trained on the poisoned images; a model trained on the clean ones, from the same seed, stands beside it.
Success is counted over test images that do not belong to the target class already: counting those gives a clean model a
rate of a tenth or so. Robust accuracy is of the same triggered images. A defence's effectiveness compares the victim
before and after it. No test image is seen by attacker or defender.
Shapes: N test images.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from robustbench_jax import metrics
from robustbench_jax.keys import stream
from robustbench_jax.ops.judge import classify
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.poisons import PoisonedDataset, PoisoningAttack, Trigger, crossed, stamped
from robustbench_jax.registry import register
from robustbench_jax.threats.lab import Lab
from robustbench_jax.threats.sanitising import sanitised
from robustbench_jax.types import Classifier, Dataset, Metric, Outcome

SHOWN = 8  # triggered images that are kept for pictures


@register("threat", "backdoor", trains=True)
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

    Metrics: those of metrics.backdoor, cross_trigger_accuracy where each image has its own trigger, poisons_removed,
    clean_removed and poison_auc of a data defence, anomaly_score of an inspection, mask_norm and mask_overlap of one
    that recovers triggers. Arrays: clean_correct bool[N]; triggered int[N], the prediction with the trigger; eligible
    bool[N], not of the target class; fooled bool[N].
    Artefacts: the poison set (rows, x, y), scores and removed of a data defence, what the inspection found, some
    triggered images.
    """
    poisoned = poison(stream(key, "poison"), lab, attack, budget)
    clean_model = lab.fit(lab.data)
    victim, trigger = trained(lab, attack, poisoned)
    model, found, artefacts = victim, {}, poison_set(poisoned)
    if lab.sanitiser is not None:
        cleaned = sanitised(stream(key, "sanitise"), lab, victim, poisoned)
        model, found, artefacts = cleaned.model, cleaned.metrics, artefacts | cleaned.artefacts
    inspected = inspect(stream(key, "inspect"), lab, model)
    model = lab.protect(stream(key, "protect"), model, trigger)
    x = stamped(stream(key, "test"), trigger, data.x)
    seen = _seen(model, trigger, data, x, runtime)
    before = _seen(victim, trigger, data, x, runtime) if lab.defended else None
    inspected[0].update(recovery(trigger, inspected[1], data.x, x) if poisoned.poisoned.any() else {})
    found = metrics.backdoor(seen, _seen(clean_model, trigger, data, x, runtime), before) | found | inspected[0]
    if trigger.dynamic:
        right = classify(model, crossed(trigger, data.x), runtime) == data.y
        found["cross_trigger_accuracy"] = metrics.proportion("cross_trigger_accuracy", right)
    found["poisons"] = metrics.number("poisons", int(poisoned.poisoned.sum()), len(poisoned.dataset))
    report(len(data))
    shown = np.flatnonzero(seen["eligible"])[:SHOWN]
    artefacts |= {"ids": shown, "x_adv": x[shown], "taken": seen["triggered"][shown]} | inspected[1]
    return Outcome(found, seen, flags=(*poisoned.flags, *inspected[2]), artefacts=artefacts)


def poison(key: jax.Array, lab: Lab, attack: PoisoningAttack, budget: Any) -> PoisonedDataset:
    """The training data that the attack makes of the lab's, within the budget."""
    count = budget.size(len(lab.data))
    return lab.poisoned(attack, count, lambda rows, surrogates: attack.poison(key, rows, count, surrogates))


def controlled(attack: PoisoningAttack, poisoned: PoisonedDataset, defence: Any) -> Any:
    """The training defence in the attacker's hands; None where he does not control the training."""
    hands = attack.access == "train_control" and poisoned.poisoned.any()
    return attack.controlled(defence, poisoned) if hands else None


def trained(lab: Lab, attack: PoisoningAttack, poisoned: PoisonedDataset) -> tuple[Classifier, Trigger]:
    """The victim, and the trigger that goes with it: the attack's, or what came of the training that it ran."""
    hands = partial(controlled, attack, poisoned)
    if not attack.learns or not poisoned.poisoned.any():
        return lab.fit(poisoned.dataset, controller=hands), poisoned.trigger
    victim, arrays = lab.fit_learning(poisoned.dataset, hands)
    return victim, attack.learned(poisoned.trigger, arrays)


def poison_set(poisoned: PoisonedDataset) -> dict[str, np.ndarray]:
    """What is stored of it: which rows, and what they became."""
    rows = np.flatnonzero(poisoned.poisoned)
    x, y = poisoned.dataset.x[rows], poisoned.dataset.y[rows]
    return {"poison_rows": rows.astype(np.int32), "poison_x": x, "poison_y": y}


def inspect(
    key: jax.Array, lab: Lab, model: Classifier
) -> tuple[dict[str, Metric], dict[str, np.ndarray], tuple[str, ...]]:
    """(metrics, artefacts, flags) of the inspection; nothing where there is none."""
    if lab.inspector is None:
        return {}, {}, ()
    making = lab.blank is not None and hasattr(lab.inspector, "making")
    inspector = lab.inspector.making(lab.blank) if making else lab.inspector
    found = inspector.inspect(key, model, lab.trusted)
    measured = {
        "anomaly_score": metrics.number("anomaly_score", found.score, 1),
        "accused_classes": metrics.number("accused_classes", int(found.accused.sum()), len(found.accused)),
    }
    return measured, {"accused": found.accused} | found.arrays, found.flags


def recovery(trigger: Trigger, found: dict[str, np.ndarray], x: np.ndarray, stamped: np.ndarray) -> dict[str, Metric]:
    """How near the mask that an inspection found for the trigger's class is to what the trigger does to images x uint8
    [N, D]; nothing where it found no masks, or the trigger has no one class.
    """
    if "mask" not in found or trigger.relabels != "all_to_one":
        return {}
    mask = found["mask"][trigger.target, ..., 0]
    true, covered = np.any(x != stamped, axis=(0, -1)), mask > 0.5
    overlap = float(np.sum(true & covered) / max(np.sum(true | covered), 1))
    return {
        "mask_norm": metrics.number("mask_norm", float(np.abs(mask).sum()), 1),
        "mask_overlap": metrics.number("mask_overlap", overlap, 1),
    }


def _seen(model: Classifier, trigger: Trigger, data: Dataset, x: np.ndarray, runtime: Runtime) -> dict[str, np.ndarray]:
    """What a model makes of the images of `data`, and of these with the trigger, x."""
    wanted = trigger.label(data.y, len(data.classes))
    eligible, triggered = wanted != data.y, classify(model, x, runtime).astype(np.int32)
    return {
        "clean_correct": classify(model, data.x, runtime) == data.y,
        "triggered": triggered,
        "eligible": eligible,
        "fooled": eligible & (triggered == wanted),
        "triggered_correct": eligible & (triggered == data.y),
    }
