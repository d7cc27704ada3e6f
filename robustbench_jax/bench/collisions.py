"""Collisions: what is proved and refuted. One of the two results is wrong, and the sweep must say so.

An image may be certified and broken, or a training promise a privacy loss that an audit finds to be larger.

A proof for a radius holds for all smaller ones, and an adversarial example at distance s breaks its image at every
radius from s on. So for each image the largest radius at which it is proved and the smallest at which it is broken are
compared, over all records of the same images, weights and norm, whatever their radii. Certificates that hold with a
probability, or are about a model made of the given one, collide with nothing.
"""

from collections.abc import Iterable

import numpy as np

from robustbench_jax.bench import groups, poison_collisions
from robustbench_jax.bench.cells import Cell
from robustbench_jax.bench.records import Record
from robustbench_jax.registry import build
from robustbench_jax.types import UserError

ROUNDING = 1e-5  # of sizes and radii as records store them
NAMED = 5  # images that a line names


def collisions(records: Iterable[Record]) -> list[str]:
    """A line for each proof that is refuted."""
    records = list(records)
    done = [r for r in records if r.status == "ok" and r.cell.threat in ("evasion", "certification")]
    found = []
    for group in groups.grouped(done, lambda cell: (*groups.images(cell), *groups.victim(cell), _norm(cell))):
        proofs = [record for record in group if proves(record)]
        for proof, other in ((a, b) for a in proofs for b in group if groups.comparable([a, b])):
            wrong = np.flatnonzero(broken_from(other) <= proved_to(proof))
            found += [_line(proof, other, wrong)] if len(wrong) else []
    return found + poison_collisions.lines(records) + refuted(records)


def refuted(records: Iterable[Record]) -> list[str]:
    """Audits that find a larger privacy loss than is promised: of true promises, one in twenty at most."""
    lines = []
    for record in records:
        upper, lower = (record.metrics.get(name) for name in ("epsilon", "epsilon_lower"))
        known = record.status == "ok" and upper and lower and upper.value is not None
        if known and lower.value > upper.value:
            bounds = f"epsilon is at least {lower.value:.2f} with 95% confidence, and promised to be {upper.value:.2f}"
            lines.append(f"{record.cell.label()}: {bounds}")
    return lines


def proves(record: Record) -> bool:
    """Whether `certified` of this record is a proof about the model itself."""
    if record.cell.threat == "evasion":
        return "certified" in record.per_example
    return not own_prediction(record.cell) and certain(record)


def certain(record: Record) -> bool:
    failure = record.metrics.get("failure_probability")
    return failure is not None and failure.value == 0


def own_prediction(cell: Cell) -> bool:
    """Whether the cell certifies a model made of the given one; so is taken what this version does not have."""
    if not cell.certifier:
        return False
    try:
        return build("certifier", cell.certifier).own_prediction
    except UserError:
        return True


def proved_to(record: Record) -> np.ndarray:
    """float [N]: the largest radius at which each image is certified, -1 for none; 0 in budgets without a radius."""
    eps = groups.radius(record.cell.budget)[1] or 0.0
    certified, right = groups.array(record, "certified"), groups.array(record, "clean_correct")
    own = np.where(right, groups.numbers(record, "radius", -1.0) * (1 - ROUNDING), -1.0)
    return np.maximum(np.where(certified, eps, -1.0), np.where(own > 0, own, -1.0))


def broken_from(record: Record) -> np.ndarray:
    """float [N]: the smallest radius at which each image is known to be broken, infinite for none."""
    eps = groups.radius(record.cell.budget)[1] or 0.0
    if record.cell.threat == "certification":
        return np.where(groups.numbers(record, "attacked", 0.0) > 0, eps, np.inf)
    broken = groups.array(record, "clean_correct") & ~groups.array(record, "robust")
    size = groups.numbers(record, "size", np.inf) * (1 + ROUNDING) if eps else np.inf
    return np.where(broken, np.minimum(eps, size), np.inf)


def _norm(cell: Cell) -> str:
    """What radii can be compared in: the kind of ball, or the whole budget where it has no radius."""
    ball, eps = groups.radius(cell.budget)
    return ball if eps is not None else cell.budget


def _line(proof: Record, other: Record, wrong: np.ndarray) -> str:
    which = ", ".join(map(str, wrong[:NAMED])) + (f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else "")
    by = f"{other.cell.method} at {other.cell.show('budget')}"
    return f"{proof.cell.label()}: certified, and broken by {by}: image {which}; one of the two is wrong"
