"""Evasion: does the model still give the right class when its input is changed within a budget?

Examples that the model already gets wrong count as not robust and are not attacked. The rest are attacked by the
driver, which judges every x_adv with the deployed model; but for those that the attack's certifier, where it has one
(autoattack(certify_first="crown")), proves robust beforehand.
Shapes: N examples, D input shape, C classes.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from robustbench_jax import metrics
from robustbench_jax.keys import stream
from robustbench_jax.ops.drive import Attacked, drive
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.judge import classify
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import register
from robustbench_jax.threats import detection, health
from robustbench_jax.types import Certifier, Classifier, Dataset, EvasionAttack, Outcome, UserError


@register("threat", "evasion")
def run(
    key: jax.Array,
    model: Classifier,
    data: Dataset,
    attack: EvasionAttack,
    budget: Any,
    *,
    pool: Dataset | None = None,
    runtime: Runtime = Runtime(),
    report: Callable[[int], None] = lambda settled: None,
) -> Outcome:
    """Attacks `data` and says how many of its examples stay right. The key is consumed.

    pool: training images, for attacks that learn from some beforehand; without it they learn from those they attack,
    and the outcome is flagged.

    Arrays: clean_correct and robust bool[N], prediction int[N] (clean), broken_by int[N] (the outcome's stage, -1 for
    none), certified bool[N] where the attack has a certifier, size float[N] (of the perturbation, in the budget's
    measure; NaN where the attack failed), forwards, gradients and vanished (gradients that were zero) int[N], x_adv
    float32[N, D]; those of threats/detection.py where the model rejects images.
    """
    check(model, data)
    attack = attack.against(model, data.x.shape[1:])
    require_access(model, attack, budget)
    prediction = classify(model, data.x, runtime)
    clean = prediction == data.y
    right = np.flatnonzero(clean)
    certifier = getattr(attack, "certify_first", None)
    certified, first = certify(stream(key, "certify"), certifier, model, data, right, budget, runtime)
    left = right[~certified[right]]
    settled = len(data) - len(left)
    attacked = drive(
        stream(key, "attack"),
        attack,
        model,
        budget,
        data.x[left],
        data.y[left],
        ids=left,
        pool=None if pool is None else (pool.x, pool.y),
        runtime=runtime,
        report=lambda count: report(settled + count),
    )
    arrays = _arrays(data, prediction, left, attacked)
    if certifier is not None:
        arrays["certified"] = certified
        arrays["broken_by"] += arrays["broken_by"] >= 0
    found = metrics.evasion(clean, *(arrays[k] for k in ("robust", "size", "forwards", "gradients")))
    if attack.minimal:
        found["median_size"] = metrics.median_size(arrays["size"][clean])
    if model.rejects:
        more, shown = detection.measure(model, data, left, arrays["x_adv"], runtime)
        found, arrays = found | more, arrays | shown
    flags = [*health.of_the_model(model, data.x, runtime), *health.of_the_attack(attacked)]
    if attack.composite and not model.remote:
        flags += health.along_eps(stream(key, "health"), model, budget, data.x[right], data.y[right])
    if pool is None and any(stage.learns for stage in attack.stages(budget)):
        flags.append("learnt on the attacked images: no training images were given")
    return Outcome(
        metrics=found,
        arrays=arrays,
        counts={
            "forward_evaluations": int(attacked.forwards.sum()) + len(data) + len(left),
            "gradient_evaluations": int(attacked.gradients.sum()),
        },
        flags=tuple(flags),
        stages=(*first, *(vars(stage) for stage in attacked.stages)),
    )


def certify(
    key: jax.Array,
    certifier: Certifier | None,
    model: Classifier,
    data: Dataset,
    right: np.ndarray,
    budget: Any,
    runtime: Runtime,
) -> tuple[np.ndarray, tuple[dict[str, Any], ...]]:
    """certified bool[N], of the images `right` alone, and the line of a stage, if there is a certifier."""
    certified, began = np.zeros(len(data), bool), time.perf_counter()
    if certifier is None:
        return certified, ()
    if len(right):
        x, y = data.x[right], data.y[right]
        certified[right] = certifier.certify(key, model, x, y, budget, ids=right, runtime=runtime).certified
    name, none = f"certify {certifier.registered[1]}", {"broken": 0, "forwards": 0, "gradients": 0}
    seen = {"attack": name, "access": "gradients", "attacked": len(right), **none, "certified": int(certified.sum())}
    return certified, ({**seen, "seconds": time.perf_counter() - began},)


def check(model: Classifier, data: Dataset) -> None:
    """UserError where the model does not take these images or has another number of classes."""
    shape = data.x.shape[1:]
    try:
        logits = jax.eval_shape(model.keyed(jax.random.key(0)), jax.ShapeDtypeStruct(shape, np.float32))
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"the model does not take images of shape {list(shape)} ({data.name}): {reason}") from error
    if logits.ndim != 1:
        raise UserError(f"the model returns shape {list(logits.shape)} for one image; logits [C] are needed")
    classes = logits.shape[0] - model.rejects
    if classes != len(data.classes):
        absent = "; if some are absent from these images, name them all in its classes" * (classes > len(data.classes))
        raise UserError(f"the model has {classes} classes, {data.name} has {len(data.classes)}{absent}")


def require_access(model: Classifier, attack: EvasionAttack, budget: Any) -> None:
    """UserError for an attack, or a part of one, that needs more of a remote model than its answers."""
    if not model.remote:
        return
    named = [(stage.called, stage.access) for stage in (attack, *attack.stages(budget))]
    if (certifier := getattr(attack, "certify_first", None)) is not None:
        named.append((certifier.registered[1], "gradients"))
    for name, access in named:
        if access == "gradients":
            raise UserError(
                f"'{name}' needs gradients, and a model over http gives none; use attacks that see scores or labels, "
                "such as square, rays or hop_skip_jump"
            )


def _arrays(data: Dataset, prediction: np.ndarray, left: np.ndarray, attacked: Attacked) -> dict[str, np.ndarray]:
    count = len(data)
    clean = prediction == data.y
    robust, x_adv = clean.copy(), as_unit(data.x)
    robust[left[attacked.success]] = False
    x_adv[left] = attacked.x_adv
    size = np.full(count, np.nan, np.float32)
    size[left[attacked.success]] = attacked.size[attacked.success]
    spread = {name: np.zeros(count, np.int64) for name in ("forwards", "gradients", "vanished")}
    for name, values in spread.items():
        values[left] = getattr(attacked, name)
    broken_by = np.full(count, -1)
    broken_by[left] = attacked.broken_by
    return {
        "clean_correct": clean,
        "robust": robust,
        "prediction": prediction.astype(np.int32),
        "broken_by": broken_by.astype(np.int32),
        "size": size,
        **spread,
        "x_adv": x_adv,
    }
