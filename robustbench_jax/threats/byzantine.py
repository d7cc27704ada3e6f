"""Byzantine clients: what is a federated model worth of whose clients some lie?

The same key trains it with all clients honest, for comparison: what a robust rule costs by itself.
Shapes: N test images.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from robustbench_jax import metrics
from robustbench_jax.federation import ByzantineAttack
from robustbench_jax.ops.byzantine import Byzantine
from robustbench_jax.ops.judge import classify
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import register
from robustbench_jax.threats.lab import Lab
from robustbench_jax.types import Dataset, Outcome, UserError


@register("threat", "byzantine", trains=True)
def run(
    key: jax.Array,
    lab: Lab,
    data: Dataset,
    attack: ByzantineAttack,
    budget: Byzantine,
    *,
    runtime: Runtime = Runtime(),
    report: Callable[[int], None] = lambda settled: None,
) -> Outcome:
    """Trains with and without Byzantine clients and judges on the test images `data`. The key is consumed.

    Arrays: clean_correct bool[N], with all clients honest; robust bool[N], with the liars.
    """
    honest = lab.fit(lab.data)
    liars = partial(_against, attack, budget.f)
    attacked = lab.fit(lab.data, controller=liars) if budget.f else honest
    right = [classify(model, data.x, runtime) == data.y for model in (honest, attacked)]
    report(len(data))
    found = metrics.availability(*right)
    return Outcome(found, {"clean_correct": right[0], "robust": right[1]})


def _against(attack: ByzantineAttack, f: int, defence: Any) -> Any:
    if not hasattr(defence, "against"):
        raise UserError(f"defence '{defence.registered[1]}' has no clients; train with e.g. federated(trimmed_mean)")
    return defence.against(attack, f)
