"""Attribute inference: can an attacker with a model tell what a record does not show, better than without?

The victim is trained on one half of the training records, drawn by key; all of them are in question. The attacker knows
them but for the attribute, and some test records as they are. He is compared, record by record, with the imputation
from what he knows without any model; and what he gains on records that the victim was not trained on is no memory of
anybody either, but what the model says of the source. Where he sees features, those of an untrained network are the
other control.
Shapes: N records in question, half of them members, V values.
"""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from robustbench_jax import metrics
from robustbench_jax.attributes import AttributeAttack, Records, impute, seen_by
from robustbench_jax.keys import stream
from robustbench_jax.models.features import logits_of
from robustbench_jax.ops.complete_records import Complete
from robustbench_jax.ops.judge import classify
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import register
from robustbench_jax.suspects import Victim, log_probability
from robustbench_jax.threats.lab import Lab
from robustbench_jax.threats.membership import halves
from robustbench_jax.types import Dataset, Outcome, UserError


@register("threat", "attribute", trains=True, verb="privacy")
def run(
    key: jax.Array,
    lab: Lab,
    data: Dataset,
    attack: AttributeAttack,
    budget: Complete,
    *,
    runtime: Runtime = Runtime(),
    report: Callable[[int], None] = lambda settled: None,
) -> Outcome:
    """Trains the victim and guesses the attribute of all training records. Accuracy is that on the test records `data`.

    Artefacts: scores float[N, V], attribute and imputed int[N], members bool[N]. The key is consumed. Raises UserError
    for data without an attribute, and where the attack cannot put one into a record.
    """
    _require(lab.data, data, attack, budget)
    members = halves(stream(key, "halves"), len(lab.data), 2)[0]
    victim, truth = lab.fit(lab.data.rows(members)), lab.data.attribute.values
    drawn = np.asarray(jax.random.permutation(stream(key, "complete"), len(data)))[: budget.n]
    records = _records(lab.data, data.rows(np.sort(drawn)), members, Victim(victim, attack.access, runtime))
    scores = np.asarray(attack.score(stream(key, "attack"), _seen(records, lab.data)))
    if scores.shape != (len(truth), len(records.prior)) or not np.isfinite(scores).all():
        raise UserError(f"'{attack.registered[1]}' gave no finite score for each value of each of {len(truth)} records")
    imputed = impute(records).argmax(-1)
    found = metrics.attribute(scores.argmax(-1) == truth, imputed == truth, members)
    if attack.access == "features":
        fresh = dataclasses.replace(records, victim=Victim(lab.fresh(), attack.access, runtime))
        guessed = attack.score(stream(key, "attack"), _seen(fresh, lab.data)).argmax(-1)
        found["untrained_accuracy"] = metrics.proportion("untrained_accuracy", guessed == truth)
    right = classify(victim, lab.data.x, runtime) == lab.data.y
    found["train_accuracy"] = metrics.proportion("train_accuracy", right[members])
    found["held_out_accuracy"] = metrics.proportion("held_out_accuracy", right[~members])
    found |= lab.promises(lab.data.rows(members))
    test = classify(victim, data.x, runtime) == data.y
    report(len(data))
    return Outcome(
        found | {"clean_accuracy": metrics.proportion("clean_accuracy", test)},
        {"clean_correct": test},
        counts={"forward_evaluations": records.victim.queries},
        artefacts={"scores": scores, "attribute": truth, "imputed": imputed, "members": members},
    )


def _require(data: Dataset, test: Dataset, attack: AttributeAttack, budget: Complete) -> None:
    """UserError, before anything is trained, for what cannot be run."""
    name = attack.registered[1]
    if data.attribute is None:
        raise UserError(f"{data.name} has no private attribute; those that have: census, adult(path), coarse(dataset)")
    if budget.n > len(test):
        raise UserError(f"complete({budget.n}): there are {len(test)} test records")
    if data.attribute.place is None and attack.access in ("scores", "labels"):
        raise UserError(
            f"'{name}' puts values into records, and the attribute of {data.name} is not in them; take 'overlearned'"
        )


def _records(data: Dataset, complete: Dataset, members: np.ndarray, victim: Victim) -> Records:
    """What the attacker has: the records without their attribute, and the mean training loss."""
    own = data.rows(members)
    loss = -float(np.mean(log_probability(logits_of(victim.model, own.x, victim.runtime), own.y)))
    secret = dataclasses.replace(data.attribute, values=np.full(len(data), -1))
    x = data.x if secret.place is None else secret.written(data.x, None)
    return Records(dataclasses.replace(data, x=x, attribute=secret), complete, victim, loss)


def _seen(records: Records, whole: Dataset) -> Records:
    """With the victim's features of the whole records, where the attack sees them."""
    if records.victim.access != "features":
        return records
    own, theirs = (seen_by(records.victim, data.x) for data in (whole, records.complete))
    return dataclasses.replace(records, representation=own, of_complete=theirs)
