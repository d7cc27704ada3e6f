"""Certification: of how many images is it proved that nothing within a budget changes the class?

A certifier of the model itself is asked only about images that the model gets right, for the others there is nothing
to prove. One with a prediction of its own (smoothing, masking) certifies another model, made of the given one: it is
asked about all images, and abstaining is wrong. Counterexamples that a certifier meets count where the judge agrees.
Shapes: N examples, B of them asked about, D input shape.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from robustbench_jax import metrics
from robustbench_jax.keys import stream
from robustbench_jax.ops.images import as_unit
from robustbench_jax.ops.judge import DRAWS, classify, judge
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import register
from robustbench_jax.threats.evasion import check
from robustbench_jax.types import Certificate, Certifier, Classifier, Dataset, Outcome

EVALUATIONS = ("forward_evaluations", "gradient_evaluations")  # what a record's timing has of a certifier's counts


@register("threat", "certification")
def run(
    key: jax.Array,
    model: Classifier,
    data: Dataset,
    certifier: Certifier,
    budget: Any,
    *,
    pool: Dataset | None = None,
    runtime: Runtime = Runtime(),
    report: Callable[[int], None] = lambda settled: None,
) -> Outcome:
    """Certifies `data` and says how many of its examples nothing can change. The key is consumed; `pool` is not used.

    Metrics: clean_accuracy (of the model that is certified), certified_accuracy, undecided, failure_probability, and
    average_certified_radius where the certifier gives radii.
    Arrays: clean_correct, certified and attacked (a judged counterexample) bool[N], prediction int[N] (of the model
    that is certified; -1 where it abstains), margin and radius float[N] (NaN for none), seconds float[N] where the
    certifier counts them, its evidence by name, x_adv float32[N, D].
    What a certifier says of an image that its model gets wrong is not counted, and flagged.
    """
    check(model, data)
    prediction = classify(model, data.x, runtime)
    asked = np.arange(len(data)) if certifier.own_prediction else np.flatnonzero(prediction == data.y)
    settled = len(data) - len(asked)
    began, found = time.perf_counter(), Certificate.empty(0)
    if len(asked):
        found = certifier.certify(
            stream(key, "certify"),
            model,
            data.x[asked],
            data.y[asked],
            budget,
            ids=asked,
            runtime=runtime,
            report=lambda count: report(settled + count),
        )
    seconds = time.perf_counter() - began
    if certifier.own_prediction:
        prediction = _spread(found.prediction, asked, -1, len(data))
    right = prediction == data.y
    claimed = _spread(found.certified, asked, False, len(data))
    attacked, x_adv = counterexamples(model, data, certifier, budget, found, asked, runtime)
    radius = _finite(_spread(found.radius, asked, np.nan, len(data)), budget, data.x.shape[1:])
    arrays = {
        "clean_correct": right,
        "certified": claimed & right,
        "attacked": attacked,
        "prediction": prediction.astype(np.int32),
        "margin": _spread(found.margin, asked, np.nan, len(data)),
        "radius": radius,
    }
    if found.seconds is not None:
        arrays["seconds"] = _spread(found.seconds, asked, np.nan, len(data))
    for name, values in found.evidence.items():
        arrays[name] = _spread(values, asked, np.nan if values.dtype.kind == "f" else 0, len(data))
    report(len(data))
    return Outcome(
        metrics=metrics.certification(right, claimed & right, attacked, radius, found.failure),
        arrays=arrays | {"x_adv": x_adv},
        counts=_evaluations(found, model, len(data), certifier),
        flags=(*found.flags, *_doubts(claimed, right, attacked)),
        stages=(_line(certifier, arrays, len(asked), seconds, found),),
    )


def counterexamples(
    model: Classifier,
    data: Dataset,
    certifier: Certifier,
    budget: Any,
    found: Certificate,
    asked: np.ndarray,
    runtime: Runtime,
) -> tuple[np.ndarray, np.ndarray]:
    """(attacked bool[N], x_adv float32[N, D]): those that the judge agrees with, projected; elsewhere the images.

    None of a certifier with a prediction of its own: they would be about another model than the judge asks.
    """
    attacked, x_adv = np.zeros(len(data), bool), as_unit(data.x)
    if found.x_adv is None or found.attacked is None or certifier.own_prediction or not found.attacked.any():
        return attacked, x_adv
    rows = np.flatnonzero(found.attacked)
    ids, none = asked[rows], np.full(len(rows), -1)
    judged = judge(model, budget, "untargeted", data.x[ids], found.x_adv[rows], data.y[ids], none, runtime)
    attacked[ids] = judged.success
    x_adv[ids[judged.success]] = judged.x_adv[judged.success]
    return attacked, x_adv


def _spread(values: np.ndarray, asked: np.ndarray, nothing: Any, count: int) -> np.ndarray:
    """Values [B] in their places among `count`; `nothing` elsewhere."""
    values = np.asarray(values)
    whole = np.full(count, nothing, values.dtype)
    whole[asked] = values
    return whole


def _finite(radius: np.ndarray, budget: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Where nothing at all changes the class: the largest distance that there is in the box."""
    if not np.isinf(radius).any():
        return radius
    return np.where(np.isinf(radius), np.float32(budget.size(jnp.ones(shape))), radius)


def _evaluations(found: Certificate, model: Classifier, count: int, certifier: Certifier) -> dict[str, int]:
    """The certifier's, and those of the clean images."""
    spent = {name: int(found.counts.get(name, 0)) for name in EVALUATIONS}
    spent["forward_evaluations"] += count * (DRAWS if model.stochastic else 1)
    return spent


def _line(certifier: Certifier, arrays: dict, asked: int, seconds: float, found: Certificate) -> dict[str, Any]:
    other = {name: int(value) for name, value in found.counts.items() if name not in EVALUATIONS}
    certified, attacked = (int(arrays[name].sum()) for name in ("certified", "attacked"))
    named = {"certifier": certifier.registered[1], "asked": asked, "certified": certified, "attacked": attacked}
    return named | other | {"seconds": seconds}


def _doubts(claimed: np.ndarray, right: np.ndarray, attacked: np.ndarray) -> list[str]:
    """What cannot be true of an honest certificate."""
    flags, wrong, both = [], np.flatnonzero(claimed & ~right), np.flatnonzero(claimed & attacked)
    if len(wrong):
        flags.append(f"certified though classified wrongly, not counted: {len(wrong)} images (the first is {wrong[0]})")
    if len(both):
        flags.append(f"certified and broken by its own counterexample: {len(both)} images (the first is {both[0]})")
    return flags
