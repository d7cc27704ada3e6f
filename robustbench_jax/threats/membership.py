"""Membership inference: can an attacker tell what a model was trained on?

The victim is trained on one half of the training images, drawn by key; all of them are in question. Shadow models come
in pairs that are trained on the two halves of a draw of their own, so that as many were trained on each image as were
not; they are the same for all seeds of a victim. An attacker who poisons chooses some images that are in question, and
adds images of his own to whatever is trained, also the same for all seeds. The test images `data` were seen by no
model: they are the population that some attacks compare with.
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
POISONS = "poisons"  # likewise, of what an attacker adds


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
    """Trains the victim and its shadows, and scores the images in question. The key is consumed.

    Artefacts: scores float[N], members bool[N], and the curve. Raises UserError for fewer shadows than it needs.
    """
    name, images = attack.registered[1], len(lab.data)
    if budget.n < attack.least:
        raise UserError(f"shadows({budget.n}): '{name}' needs at least {attack.least} shadow models")
    rows, pool = planned(attack, lab.data)
    added = np.arange(images, len(pool))
    members = halves(stream(key, "halves"), images, 2)[0]
    trained_on = pool.rows(np.concatenate([np.flatnonzero(members), added]))
    victim = lab.protect(stream(key, "protect"), lab.fit(trained_on))
    shadow_members = halves(stream(jax.random.key(0), DRAWS), images, budget.n)
    parts = [np.concatenate([np.flatnonzero(own), added]) for own in shadow_members]
    shadows = lab.fit_shadows(pool, parts) if budget.n else ()
    asked = Victim(victim, attack.access, runtime)
    suspects = Suspects(lab.data.rows(rows), data, asked, shadows, shadow_members[:, rows])
    scores = np.asarray(attack.score(stream(key, "attack"), suspects))
    if scores.shape != rows.shape or not np.isfinite(scores).all():
        raise UserError(f"'{name}' gave no finite score for each of {len(rows)} images")
    found = metrics.membership(scores, members[rows])
    right = classify(victim, lab.data.x, runtime) == lab.data.y
    found["train_accuracy"] = metrics.proportion("train_accuracy", right[members])
    found["held_out_accuracy"] = metrics.proportion("held_out_accuracy", right[~members])
    found |= lab.promises(trained_on)
    report(len(data))
    curve = roc(scores, members[rows])
    test = classify(victim, data.x, runtime) == data.y
    return Outcome(
        found | {"clean_accuracy": metrics.proportion("clean_accuracy", test)},
        {"clean_correct": test},
        counts={"forward_evaluations": asked.queries},
        artefacts={"scores": scores, "members": members[rows], "fpr": curve.fpr, "tpr": curve.tpr},
    )


def planned(attack: MembershipAttack, data: Dataset) -> tuple[np.ndarray, Dataset]:
    """The rows int [K] in question, all unless the attack chooses, and the data with what it adds at the end."""
    if not hasattr(attack, "poisons"):
        return np.arange(len(data)), data
    key = stream(jax.random.key(0), POISONS)
    rows = attack.in_question(key, len(data))
    more = attack.poisons(key, data.rows(rows))
    both = (np.concatenate([getattr(data, part), getattr(more, part)]) for part in ("x", "y"))
    return rows, Dataset(*both, data.classes, data.name) if len(more) else data


def halves(key: jax.Array, images: int, models: int) -> np.ndarray:
    """bool [M, N]: models 2 i and 2 i + 1 share the images between them. The first models of more are the same."""
    out = np.zeros((models, images), bool)
    for pair in range(models // 2):
        order = np.asarray(jax.random.permutation(jax.random.fold_in(key, pair), images))
        out[2 * pair, order[: images // 2]] = True
        out[2 * pair + 1] = ~out[2 * pair]
    return out
