"""Ownership: can the owner of a model tell it, or what a thief made of it, from other people's models?

The training images are divided once for all seeds: the owner trains her marked model on one half, everybody else has
the other. Others' models are trained without a mark, each on a draw of its own from that half; NULLS of them, the same
for all marks, attacks and seeds, are the null distribution. A claim is verified where its p-value
(ownership.rank_p_value) is at most LEVEL, which was fixed first (39 models, one false claim in twenty), and where the
95% interval of the evidence over the questions lies above the null's mean: a null of models that all answer alike would
let one question decide. Where evidence is a number and not a yes or no, the interval is of what it exceeds the null's
mean by at the same question, since some questions give more of it than others whoever is asked. The thief has the first
images of a draw from the others' half. He has won where the claim is no longer verified and the accuracy is less than
LOST below the marked model's (as in the toolbox of Lukas et al., IEEE S&P 2022, arXiv:2108.04974).
Shapes: N test images, M models of the null, n questions.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from robustbench_jax import metrics
from robustbench_jax.keys import stream
from robustbench_jax.ops.judge import classify
from robustbench_jax.ops.own_images import Images
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.ownership import Mark, Owner, Removal, Service, Suspect, Thief, rank_p_value, statistic
from robustbench_jax.registry import register
from robustbench_jax.threats.lab import Lab
from robustbench_jax.types import Classifier, Dataset, Metric, Outcome, UserError

NULLS, LEVEL, LOST = 39, 0.05, 0.05
SHARE = 0.8  # of the others' half that each of their models is trained on
WORLD = jax.random.key(0)  # of what is the same for all seeds


@register("threat", "ownership", trains=True, verb="watermark")
def run(
    key: jax.Array,
    lab: Lab,
    data: Dataset,
    attack: Removal,
    budget: Images,
    *,
    runtime: Runtime = Runtime(),
    report: Callable[[int], None] = lambda settled: None,
) -> Outcome:
    """Marks, steals, removes and verifies; accuracy is that on the test images `data`. The key is consumed.

    Metrics: those of `judged`, accuracies of the suspect, of the marked model and of one trained on the same images
    without the mark, and of a forger's claim. Artefacts: evidence [n], null float [M]; those of a forged claim.
    """
    mark = require_mark(lab)
    owned, world = halves(len(lab.data))
    check(attack, budget, len(world))
    order = np.asarray(jax.random.permutation(stream(key, "thief"), len(world)))
    images = lab.data.rows(world[order[: budget.n]])
    owners, marked = lab.data.rows(owned), lab.fit(lab.data.rows(owned))
    null = lab.fit_shadows(lab.data, [drawn(jax.random.fold_in(WORLD, i), world) for i in range(NULLS)])

    def innocent() -> Classifier:
        return lab.fit(lab.data.rows(drawn(stream(key, "innocent"), world)), surrogate=1)

    service = Service(marked, mark)
    suspect = attack.remove(stream(key, "attack"), Thief(marked, images, service, lab.blank, innocent, mark))
    claim = mark.claim(Owner(marked, owners, lab.test, tuple(service.asked)))

    def evidence(claim: Any, model: Classifier) -> np.ndarray:
        return mark.evidence(claim, Suspect(model, mark.access, runtime))

    others = np.stack([evidence(claim, model) for model in null])
    before, after = evidence(claim, marked), evidence(claim, suspect)
    right = {name: classify(model, data.x, runtime) == data.y for name, model in (("own", marked), ("left", suspect))}
    found = judged(before, after, others, right, stolen=attack.access != "none")
    artefacts = {"evidence": after, "null": statistics(others)}
    plain = classify(lab.fit(owners, surrogate=0), data.x, runtime) == data.y
    found["unmarked_accuracy"] = metrics.proportion("unmarked_accuracy", plain)
    if attack.forges:
        false = mark.forged(stream(key, "forge"), marked, images)
        forged = evidence(false, marked)
        against = np.stack([evidence(false, model) for model in null])
        found |= of_a_forgery(forged, against)
        artefacts |= {"forged_evidence": forged, "forged_null": statistics(against)}
    report(len(data))
    return Outcome(found, {"clean_correct": right["left"]}, artefacts=artefacts)


def judged(
    before: np.ndarray, after: np.ndarray, null: np.ndarray, right: dict[str, np.ndarray], stolen: bool = True
) -> dict[str, Metric]:
    """From the evidence [n] on the marked model and on the suspect, that [M, n] of the null, and what the marked model
    ("own") and the suspect ("left") classify correctly, bool [N]. stolen: whether the suspect was.
    """
    verified, owned = (is_verified(evidence, null) for evidence in (after, before))
    null = statistics(null)
    lost = right["own"].astype(float) - right["left"]
    return {
        "clean_accuracy": metrics.proportion("clean_accuracy", right["left"]),
        "marked_accuracy": metrics.proportion("marked_accuracy", right["own"]),
        "accuracy_lost": metrics.mean("accuracy_lost", lost),
        "watermark_success": shown("watermark_success", after),
        "watermark_before": shown("watermark_before", before),
        "null_mean": metrics.mean("null_mean", null),
        "null_max": metrics.number("null_max", np.max(null), len(null)),
        "p_value": metrics.number("p_value", rank_p_value(statistic(after), null), len(null)),
        "verified": metrics.number("verified", verified, 1),
        "removed": metrics.number("removed", not verified and lost.mean() < LOST, 1)
        if owned and stolen
        else metrics.unknown("removed", 1),
    }


def of_a_forgery(evidence: np.ndarray, null: np.ndarray) -> dict[str, Metric]:
    """What a verifier makes of the thief's claim; null [M, n]."""
    p = rank_p_value(statistic(evidence), statistics(null))
    return {
        "forged_success": shown("forged_success", evidence),
        "forged_p_value": metrics.number("forged_p_value", p, len(null)),
        "forged_verified": metrics.number("forged_verified", is_verified(evidence, null), 1),
    }


def is_verified(evidence: np.ndarray, null: np.ndarray) -> bool:
    """Whether evidence [n] against that [M, n] of unmarked models is enough for a claim."""
    own = statistics(null)
    if evidence.dtype == bool:
        low, least = shown("watermark_success", evidence).low, np.mean(own)
    else:
        low, least = shown("watermark_success", evidence - np.mean(null, axis=0)).low, 0.0
    return low is not None and low > least and rank_p_value(statistic(evidence), own) <= LEVEL


def statistics(null: np.ndarray) -> np.ndarray:
    """float [M] of evidence [M, n]."""
    return np.array([statistic(evidence) for evidence in null])


def shown(name: str, evidence: np.ndarray) -> Metric:
    """The statistic with its interval over the questions."""
    return (metrics.proportion if evidence.dtype == bool else metrics.mean)(name, evidence)


def halves(images: int) -> tuple[np.ndarray, np.ndarray]:
    """(the owner's rows, everybody else's), each in order."""
    order = np.asarray(jax.random.permutation(stream(WORLD, "owner's half"), images))
    return np.sort(order[: images // 2]), np.sort(order[images // 2 :])


def drawn(key: jax.Array, world: np.ndarray) -> np.ndarray:
    """The rows that one of the others trains on. The key is consumed."""
    order = np.asarray(jax.random.permutation(key, len(world)))
    return np.sort(world[order[: round(SHARE * len(world))]])


def require_mark(lab: Lab) -> Mark:
    if not isinstance(lab.owned, Mark):
        raise UserError("the training defence is no mark; name one such as trigger_set")
    return lab.owned


def check(attack: Removal, budget: Images, images: int) -> None:
    """UserError for more images than there are, and for fewer than a batch of the thief's."""
    if budget.n > images:
        raise UserError(f"images({budget.n}): there are {images} training images that are not the owner's")
    least = attack.recipe.batch_size if attack.recipe else 1
    if budget.n < least:
        raise UserError(
            f"images({budget.n}): '{attack.registered[1]}' trains in batches of {least}; give at least that"
        )
