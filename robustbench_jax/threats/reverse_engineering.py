"""Reverse engineering: what kind of model answers?

The attacker trains candidates of every kind that he can think of, learns to tell them apart by their answers, and is
then shown the victim's. How well that works is measured on candidates that he has not seen; what he says of the victim
itself is a line of the record.
Shapes: N images, M' unseen candidates.
"""

from collections.abc import Callable

import jax

from robustbench_jax import metrics
from robustbench_jax.attacks.extraction.kennen import Kennen
from robustbench_jax.keys import stream
from robustbench_jax.ops.judge import classify
from robustbench_jax.ops.queries import Queries
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import register
from robustbench_jax.thefts import Oracle
from robustbench_jax.threats.evasion import check
from robustbench_jax.types import Classifier, Dataset, Outcome, UserError


@register("threat", "reverse_engineering", verb="steal", pool=True)
def run(
    key: jax.Array,
    model: Classifier,
    data: Dataset,
    attack: Kennen,
    budget: Queries,
    *,
    pool: Dataset | None = None,
    runtime: Runtime = Runtime(),
    report: Callable[[int], None] = lambda settled: None,
) -> Outcome:
    """Says what the model is, in a flag. The key is consumed.

    Arrays: clean_correct bool[N], and for each attribute, of the candidates, ..._true and ..._told int[M'].
    """
    check(model, data)
    if pool is None:
        raise UserError(f"{data.name} has no training images that candidates could be trained on")
    attack.require(data.x.shape[1:])
    twice = 2 if attack.timing else 1  # the same images are asked again, when everything is compiled
    oracle = Oracle(model, attack.access, twice * budget.n, stream(key, "answers"), runtime)
    told = attack.tell(stream(key, "attack"), oracle, pool)
    test = classify(model, data.x, runtime) == data.y
    report(len(data))
    found, arrays = {"clean_accuracy": metrics.proportion("clean_accuracy", test)}, {"clean_correct": test}
    for i, (attribute, names) in enumerate(told.names.items()):
        if len(names) > 1:
            found[f"told_{attribute}"] = metrics.proportion(f"told_{attribute}", told.said[:, i] == told.truth[:, i])
        arrays |= {f"{attribute}_true": told.truth[:, i], f"{attribute}_told": told.said[:, i]}
    found["queries_spent"] = metrics.number("queries_spent", oracle.queries, oracle.queries)
    said = ", ".join(f"{name} {names[i]}" for (name, names), i in zip(told.names.items(), told.victim, strict=True))
    counts = {"forward_evaluations": oracle.queries + len(data)}
    artefacts = {"true": told.truth, "told": told.said, "victim": told.victim}
    return Outcome(found, arrays, counts=counts, flags=(f"the victim is taken for: {said}",), artefacts=artefacts)
