"""Made-up records for tests of what is computed from records; never results."""

from typing import Any

import numpy as np

from robustbench_jax.bench.cells import Cell
from robustbench_jax.bench.records import MetricValue, Record, Timing
from robustbench_jax.metrics import certification, proportion

CELL = {"dataset": "fashion_mnist_mini", "model": "mlp", "attack": "pgd(steps=40)", "budget": "linf(eps=0.1)"}
PROVENANCE = {
    "started": "2026-01-01T00:00:00+00:00",
    "versions": {"python": "3.11.0", "jax": "0.10.2"},
    "git": {"commit": "0123abc", "modified": True},
    "device": {"platform": "cpu", "kind": "cpu", "count": 2},
    "weights": "w0",
    "data": "d0",
    "seed": 0,
}


def first(count: int, n: int = 100) -> np.ndarray:
    """bool [n], true for the first `count`: sets of images that lie inside one another."""
    return np.arange(n) < count


def made_up(robust: Any, *, clean: Any = None, weights: str = "w0", data: str = "d0", **cell: Any) -> Record:
    """`robust` bool [n] withstood the attack; `clean` bool [n] are classified correctly, all of them for None."""
    robust = np.asarray(robust, bool)
    clean = np.ones_like(robust) if clean is None else np.asarray(clean, bool)
    cell = Cell(**CELL | cell)
    metrics = {"clean_accuracy": proportion("clean_accuracy", clean)}
    metrics["robust_accuracy"] = proportion("robust_accuracy", robust)
    return Record(
        id=cell.id,
        cell=cell,
        metrics={name: MetricValue(**vars(metric)) for name, metric in metrics.items()},
        per_example={"clean_correct": clean.tolist(), "robust": robust.tolist()},
        timing=Timing(compile_s=1.0, run_s=2.0, forward_evaluations=4000, gradient_evaluations=3000),
        provenance=PROVENANCE | {"weights": weights, "data": data},
        papers=["madry2018"],
    )


def made_up_proof(
    certified: Any,
    *,
    clean: Any = None,
    attacked: Any = None,
    radius: Any = None,
    failure: float = 0.0,
    weights: str = "w0",
    data: str = "d0",
    **cell: Any,
) -> Record:
    """`certified` and `attacked` bool [n]; radius [n] or None for a certifier without."""
    certified = np.asarray(certified, bool)
    clean = np.ones_like(certified) if clean is None else np.asarray(clean, bool)
    attacked = np.zeros_like(certified) if attacked is None else np.asarray(attacked, bool)
    cell = Cell(**CELL | {"attack": "", "certifier": "exact_linear", "threat": "certification"} | cell)
    radii = np.full(len(certified), np.nan) if radius is None else np.asarray(radius, float)
    metrics = certification(clean, certified, attacked, radii, failure)
    arrays = {"clean_correct": clean, "certified": certified, "attacked": attacked}
    return Record(
        id=cell.id,
        cell=cell,
        metrics={name: MetricValue(**vars(metric)) for name, metric in metrics.items()},
        per_example={name: values.tolist() for name, values in arrays.items()}
        | {"radius": [None if np.isnan(r) else r for r in radii.tolist()]},
        timing=Timing(compile_s=1.0, run_s=2.0, forward_evaluations=100),
        stages=[{"certifier": "exact_linear", "asked": int(clean.sum())}],
        provenance=PROVENANCE | {"weights": weights, "data": data},
    )


def made_up_failure(error: str = "Traceback ...\nRuntimeError: boom", **cell: Any) -> Record:
    cell = Cell(**CELL | cell)
    return Record(id=cell.id, cell=cell, status="failed", error=error, provenance=PROVENANCE)
