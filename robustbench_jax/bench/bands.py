"""Bands: what attacks leave and what certifiers prove, along the radius; true robust accuracy lies between the two.

A proof for a radius holds for all smaller ones, and what is broken at a radius is broken at all larger ones, so each
record says something about the whole axis. Attacked accuracy has a point at each radius that was attacked; certified
accuracy at each that was certified, or all along where certifiers give radii.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from robustbench_jax.bench import collisions, groups
from robustbench_jax.bench.curves import DENSE, Point
from robustbench_jax.bench.records import MetricValue, Record
from robustbench_jax.metrics import proportion


@dataclass
class Band:
    """One model, or one that a certifier made of it. attacked and certified: points from clean accuracy on, by
    radius; empty where nothing was attacked or certified.
    """

    model: str
    axis: str
    dataset: str
    attacked: list[Point] = field(default_factory=list)
    certified: list[Point] = field(default_factory=list)


def bands(records: Iterable[Record]) -> list[Band]:
    """One for each model and norm in which certified accuracy has points at two radii above 0 or more."""
    records = list(records)
    ours = [*groups.of_evasion(records), *groups.of_certification(records)]
    done = [r for r in ours if r.status == "ok" and groups.radius(r.cell.budget)[1] is not None]
    made = [_band(group) for group in groups.grouped(done, _curve_of) if groups.comparable(group)]
    return sorted((b for b in made if len(b.certified) > 2), key=lambda band: (band.dataset, band.axis, band.model))


def _curve_of(cell) -> tuple:
    made = cell.certifier if collisions.own_prediction(cell) else ""
    return *groups.images(cell), *groups.victim(cell), made, groups.radius(cell.budget)[0]


def _band(group: list[Record]) -> Band:
    cell = group[0].cell
    own = f" + {cell.method}" if collisions.own_prediction(cell) else ""
    band = Band(groups.name(cell) + own, groups.radius(cell.budget)[0], cell.show("dataset"))
    proofs, attacks = groups.of_certification(group), groups.of_evasion(group)
    clean = group[0].metrics["clean_accuracy"]
    right = groups.array(group[0], "clean_correct")
    if attacks:
        reach = np.min([collisions.broken_from(record) for record in group], axis=0)
        band.attacked = _points(clean, _radii(attacks), lambda eps: right & (reach > eps), "robust_accuracy")
    if proofs:
        proved = np.max([collisions.proved_to(record) for record in proofs], axis=0)
        band.certified = _points(
            clean, _along(proofs, proved), lambda eps: right & (proved >= eps), "certified_accuracy"
        )
    return band


def _points(clean: MetricValue, radii: list[float], hits, metric: str) -> list[Point]:
    shares = [MetricValue(**vars(proportion(metric, hits(eps)))) for eps in radii]
    return [Point(0.0, clean), *(Point(eps, share) for eps, share in zip(radii, shares, strict=True))]


def _radii(records: list[Record]) -> list[float]:
    """Those above 0 that records are about."""
    return sorted({groups.radius(record.cell.budget)[1] for record in records} - {0.0})


def _along(proofs: list[Record], proved: np.ndarray) -> list[float]:
    """The records' radii; a grid up to the largest radius that is certified where certifiers give radii."""
    given = any(np.any(groups.numbers(record, "radius", 0.0) > 0) for record in proofs)
    last = float(proved.max(initial=0.0))
    grid = np.linspace(0, last, DENSE + 1)[1:] if given and last > 0 else []
    return sorted({*_radii(proofs), *map(float, grid)})
