"""Membership inference: can an attacker tell what a model was trained on?

The victim is trained on one half of the training images, drawn by key; all of them are in question. Shadow models come
in pairs that are trained on the two halves of a draw of their own, so that as many were trained on each image as were
not; they are the same for all seeds of a victim. The test images `data` were seen by no model: they are the population
that some attacks compare with.
Shapes: N images in question, half of them members, Z test images, M shadow models.
"""

from collections.abc import Callable

import jax
import numpy as np

from robustbench_jax import metrics
from robustbench_jax.keys import stream
from robustbench_jax.ops.judge import classify
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.ops.shadows import Shadows
from robustbench_jax.ops.statistics import roc
from robustbench_jax.registry import register
from robustbench_jax.suspects import MembershipAttack, Suspects, Victim
from robustbench_jax.threats.lab import Lab
from robustbench_jax.types import Dataset, Outcome, UserError

DRAWS = "shadow halves"  # the stream that shadow models' images come from, of a key that is no cell's


@register("threat", "membership", trains=True, verb="privacy")
def run(
    key: jax.Array,
    lab: Lab,
    data: Dataset,
    attack: MembershipAttack,
    budget: Shadows,
    *,
    runtime: Runtime = Runtime(),
    report: Callable[[int], None] = lambda settled: None,
) -> Outcome:
    """Trains the victim and its shadows, and scores all training images. The key is consumed.

    Artefacts: scores float[N], members bool[N], and the curve. Raises UserError for fewer shadows than it needs.
    """
    name, images = attack.registered[1], len(lab.data)
    if budget.n < attack.least:
        raise UserError(f"shadows({budget.n}): '{name}' needs at least {attack.least} shadow models")
    members = halves(stream(key, "halves"), images, 2)[0]
    victim = lab.protect(stream(key, "protect"), lab.fit(lab.data.rows(members)))
    shadow_members = halves(stream(jax.random.key(0), DRAWS), images, budget.n)
    shadows = lab.fit_shadows(lab.data, [np.flatnonzero(own) for own in shadow_members]) if budget.n else ()
    asked = Victim(victim, attack.access, runtime)
    scores = np.asarray(attack.score(stream(key, "attack"), Suspects(lab.data, data, asked, shadows, shadow_members)))
    if scores.shape != (images,) or not np.isfinite(scores).all():
        raise UserError(f"'{name}' gave no finite score for each of {images} images")
    found = metrics.membership(scores, members)
    right = classify(victim, lab.data.x, runtime) == lab.data.y
    found["train_accuracy"] = metrics.proportion("train_accuracy", right[members])
    found["held_out_accuracy"] = metrics.proportion("held_out_accuracy", right[~members])
    found |= lab.promises(lab.data.rows(members))
    report(len(data))
    curve = roc(scores, members)
    test = classify(victim, data.x, runtime) == data.y
    return Outcome(
        found | {"clean_accuracy": metrics.proportion("clean_accuracy", test)},
        {"clean_correct": test},
        counts={"forward_evaluations": asked.queries},
        artefacts={"scores": scores, "members": members, "fpr": curve.fpr, "tpr": curve.tpr},
    )


def halves(key: jax.Array, images: int, models: int) -> np.ndarray:
    """bool [M, N]: models 2 i and 2 i + 1 share the images between them. The first models of more are the same."""
    out = np.zeros((models, images), bool)
    for pair in range(models // 2):
        order = np.asarray(jax.random.permutation(jax.random.fold_in(key, pair), images))
        out[2 * pair, order[: images // 2]] = True
        out[2 * pair + 1] = ~out[2 * pair]
    return out
