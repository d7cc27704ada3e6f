"""Collisions of poisoning: an image certified for n poisons that a victim of no more gets wrong.

Certificates by partitions (deep_partition) and of labels (label_flips) are about the very training that an attack
poisons: the same architecture, defence, recipe, data and seed. A poison of which the image changes counts twice (one
removed, one added), a flipped label once.
"""

from collections.abc import Iterable

import numpy as np

from robustbench_jax.bench import groups
from robustbench_jax.bench.cells import Cell
from robustbench_jax.bench.records import Record
from robustbench_jax.registry import build, parse
from robustbench_jax.types import UserError

OF_THE_MODEL = ("deep_partition", "label_flips")  # a run-off elects another class than the model that is attacked
OF_LABELS = ("label_flips",)  # which say nothing of other images


def lines(records: Iterable[Record]) -> list[str]:
    """A line for each pair of records of which one certifies what the other breaks."""
    done = [record for record in records if record.status == "ok"]
    attacks = [r for r in done if r.cell.threat == "poisoning" and not (r.cell.data_defence or r.cell.model_defence)]
    proofs = [r for r in done if r.cell.certifier and parse(r.cell.certifier).name in OF_THE_MODEL]
    found = []
    for attack, proof in ((a, p) for a in attacks for p in proofs if _one_training(a.cell, p.cell)):
        if groups.same_images(attack, proof) and (cost := _cost(attack, proof)) is not None:
            safe = groups.numbers(proof, "radius", -1.0) >= cost
            wrong = np.flatnonzero(safe & ~groups.array(attack, "robust"))
            found += [_line(proof, attack, cost, wrong)] if len(wrong) else []
    return found


def _one_training(a: Cell, b: Cell) -> bool:
    return groups.images(a) == groups.images(b) and groups.victim(a) == groups.victim(b)


def _cost(record: Record, proof: Record) -> int | None:
    """What the poisons count to a certificate; None for attacks on single targets, each of which has poisons of its
    own, and for changed images where the certificate is of labels.
    """
    try:
        attack = build("attack", record.cell.attack)
    except UserError:
        return None
    images = parse(proof.cell.certifier).name in OF_LABELS and not attack.labels_only
    if attack.goal == "targeted" or images:
        return None
    return int(record.metrics["poisons"].value) * (1 if attack.labels_only else 2)


def _line(proof: Record, attack: Record, cost: int, wrong: np.ndarray) -> str:
    return (
        f"{proof.cell.label()}: certified for {cost} poisons, and {attack.cell.method} with as many makes images "
        f"{', '.join(map(str, wrong[:5]))} wrong; one of the two is wrong"
    )
