"""The runner: cells to records, one after another, in this process.

A cell that fails leaves a record with its traceback and the sweep goes on. A rerun does only what is missing, failed,
cut short, or was measured on other data or weights. Stopping loses at most the cell that is running.
"""

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from robustbench_jax.bench import panels, records
from robustbench_jax.bench.cells import Cell, trains
from robustbench_jax.bench.citations import papers
from robustbench_jax.bench.clock import Clock, per_image
from robustbench_jax.bench.provenance import provenance
from robustbench_jax.bench.records import Record, Timing
from robustbench_jax.bench.workshop import Workshop
from robustbench_jax.data import load_dataset
from robustbench_jax.models.files import digest
from robustbench_jax.models.over_http import told
from robustbench_jax.ops.runtime import Runtime, make_room
from robustbench_jax.registry import build, entry
from robustbench_jax.threats.lab import Lab
from robustbench_jax.types import Classifier, Dataset, Outcome, UserError
from robustbench_jax.whole_files import write_whole

Report = Callable[[int], None]


@dataclass
class Summary:
    """What a sweep did: cells run, cells whose record was there already, cells that failed."""

    ran: list[Cell] = field(default_factory=list)
    kept: list[Cell] = field(default_factory=list)
    failed: list[tuple[Cell, str]] = field(default_factory=list)


def run_cell(
    cell: Cell,
    model: Classifier,
    data: Dataset,
    *,
    pool: Dataset | None = None,
    training: dict[str, Any] | None = None,
    watched: dict[str, Any] | None = None,
    runtime: Runtime = Runtime(),
    report: Report = lambda settled: None,
) -> tuple[Record, Outcome]:
    """Runs the threat's procedure on things that are already made. pool: see `training_images`. training: what the
    model's training cost, for the record's provenance. watched: see Workshop.watched.
    """
    make_room()
    made = provenance(data=data.digest, weights=_digest(model), seed=cell.seed)
    if training is not None:
        made["training"] = training
    learnt = ({} if pool is None else {"pool": pool}) | (watched or {})
    if pool is not None:
        made["pool"] = pool.digest
    with Clock() as clock, told():
        outcome = entry("threat", cell.threat).make(
            jax.random.key(cell.seed),
            model,
            data,
            build("certifier", cell.certifier) if cell.certifier else build("attack", cell.attack),
            build("budget", cell.budget),
            runtime=runtime,
            report=report,
            **learnt,
        )
    timing = Timing(
        compile_s=round(clock.compile_s, 3),
        run_s=round(clock.run_s, 3),
        inference_s=0.0 if model.remote else float(f"{per_image(model, data.x, runtime):.4g}"),
        **outcome.counts,
    )
    record = records.record_of(cell, outcome, timing, made)
    return record.model_copy(update={"papers": papers(cell)}), outcome


def run_training_cell(
    cell: Cell, lab: Lab, data: Dataset, *, runtime: Runtime = Runtime(), report: Report = lambda settled: None
) -> tuple[Record, Outcome]:
    """As `run_cell`, of a threat to the training, which trains models of its own in the lab."""
    make_room()
    made = provenance(data=data.digest, weights=None, seed=cell.seed) | {"pool": lab.data.digest}
    attack, budget = build("attack", cell.attack), build("budget", cell.budget)
    with Clock() as clock:
        outcome = entry("threat", cell.threat).make(
            jax.random.key(cell.seed), lab, data, attack, budget, runtime=runtime, report=report
        )
    timing = Timing(compile_s=round(clock.compile_s, 3), run_s=round(clock.run_s, 3), **outcome.counts)
    made["artefacts"] = digest(outcome.artefacts)
    record = records.record_of(cell, outcome, timing, made)
    return record.model_copy(update={"papers": papers(cell)}), outcome


def training_images(cell: Cell, data: Dataset, load: Callable[..., Dataset] = load_dataset) -> Dataset | None:
    """What the cell's attack may learn from beforehand: None where it learns nothing, or where the dataset has no
    other images than those that are attacked.
    """
    if not entry("threat", cell.threat).facts.get("pool") and not _learns(cell):
        return None
    try:
        pool = load(cell.dataset, "train", None)
    except UserError:
        return None
    return None if np.array_equal(pool.x[: len(data)], data.x) else pool


def _learns(cell: Cell) -> bool:
    """Whether it is an attack on images that looks at others beforehand."""
    if cell.threat != "evasion":
        return False
    stages = build("attack", cell.attack).stages(build("budget", cell.budget))
    return any(stage.learns for stage in stages)


def run_sweep(
    cells: tuple[Cell, ...],
    out: str | Path,
    *,
    runtime: Runtime,
    workshop: Workshop,
    pictures: bool = False,
    begin: Callable[[int, Cell, int], Report] = lambda number, cell, examples: lambda settled: None,
) -> Summary:
    """Runs what is missing of `cells` into the directory `out`. `begin` is told of each cell and gives its report.

    pictures: draw a panel of every cell, also of those whose record was there already (bench/panels.py).
    """
    summary = Summary()
    workshop.expect(cells)
    have = {record.id: record for record in records.read_all(out)[0]} if Path(out, records.CELLS).is_dir() else {}
    for number, cell in enumerate(cells):
        known = have.get(cell.id)
        try:
            data = workshop.dataset(cell.dataset, cell.split, cell.examples)
            model = None if trains(cell.threat) else workshop.victim(cell)
            lab = workshop.lab(cell) if model is None else None
            if known and _still_true(known, model, data, lab):
                summary.kept.append(cell)
                begin(number, cell, len(data))(len(data))
            else:
                known, report = None, begin(number, cell, len(data))
                record, outcome = _run(cell, model, lab, data, workshop, runtime, report)
                keep(out, record, outcome)
                summary.ran.append(cell)
            if pictures:
                panels.save(out, cell.id, cell.label(), model, data)
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            if known and known.status == "ok":  # its data or weights could not be read now; it may still be true
                summary.failed.append((cell, f"{reason}; its earlier record is kept, unchecked"))
                continue
            summary.failed.append((cell, reason))
            records.write(
                out,
                Record(
                    id=cell.id,
                    status="failed",
                    error=traceback.format_exc(),
                    cell=cell,
                    provenance=provenance(seed=cell.seed),
                    papers=papers(cell),
                ),
            )
    return summary


def _run(cell: Cell, model: Classifier | None, lab: Lab | None, data: Dataset, workshop: Workshop, runtime, report):
    if lab is not None:
        return run_training_cell(cell, lab, data, runtime=runtime, report=report)
    pool, training = training_images(cell, data, workshop.dataset), workshop.training(cell)
    watched = workshop.watched(cell)
    return run_cell(cell, model, data, pool=pool, training=training, watched=watched, runtime=runtime, report=report)


def keep(out: str | Path, record: Record, outcome: Outcome) -> None:
    """Writes the adversarial examples or the poison set, then the record: a record that can be read has its arrays."""
    own = outcome.artefacts or trains(record.cell.threat)
    records.write_arrays(out, record.id, outcome.artefacts if own else _broken(outcome))
    records.write(out, record)


def _still_true(record: Record, model: Classifier | None, data: Dataset, lab: Lab | None = None) -> bool:
    found = record.provenance
    same = found.get("weights") == _digest(model) if lab is None else found.get("pool") == lab.data.digest
    return record.status == "ok" and same and found.get("data") == data.digest


def _digest(model: Classifier) -> str:
    return (
        digest(model.params)
        if isinstance(model.params, dict)
        else digest({f"{i:04d}": leaf for i, leaf in enumerate(jax.tree.leaves(model.params))})
    )


def _broken(outcome: Outcome) -> dict[str, np.ndarray]:
    """The adversarial examples that were found, and which examples they belong to."""
    arrays = outcome.arrays
    broken = arrays["attacked"] if "attacked" in arrays else arrays["clean_correct"] & ~arrays["robust"]
    ids = np.flatnonzero(broken)
    return {"ids": ids, "x_adv": arrays["x_adv"][ids]}


def require_out(out: str | Path, option: str = "--out") -> Path:
    """The directory `out`, made if need be. UserError where that cannot be, before any long work; option: its name."""
    path = Path(out)
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_whole(path / ".writable", lambda file: file.write(b""))
        (path / ".writable").unlink()
    except OSError as error:
        raise UserError(f"{option} {out}: {error.strerror}") from None
    return path
