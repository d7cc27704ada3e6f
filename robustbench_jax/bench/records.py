"""Records: one JSON file a cell, written once and whole; larger arrays beside it.

A file is written under another name, flushed to the disk and renamed, so what can be read is whole. Records are never
edited: every table is computed from them.
"""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from robustbench_jax.bench.cells import Cell
from robustbench_jax.types import Outcome, UserError
from robustbench_jax.whole_files import write_whole

SCHEMA = 1
READ = {  # what tables read of each threat: metrics, the last of them of all examples, and arrays
    "evasion": (("clean_accuracy", "robust_accuracy"), ("clean_correct", "robust")),
    "certification": (("clean_accuracy", "certified_accuracy"), ("clean_correct", "certified")),
    "corruption": (("corrupted_accuracy",), ("clean_correct", "robust")),
    "backdoor": (("backdoor_success_rate", "clean_accuracy"), ("clean_correct", "fooled")),
    "byzantine": (("clean_model_accuracy",), ("clean_correct", "robust")),
    "poisoning": (("clean_model_accuracy",), ("clean_correct", "robust")),
    "monitoring": (("update_ms", "clean_accuracy"), ("clean_correct",)),
    "obfuscation": (("failed_checks", "clean_accuracy", "robust_accuracy"), ("clean_correct", "robust")),
}
CELLS, ARRAYS = "cells", "arrays"


class MetricValue(BaseModel):
    """One number: its sample size, its 95% interval and its definition; null where there is nothing to count."""

    value: float | None
    n: int
    low: float | None
    high: float | None
    definition: str = ""


class Timing(BaseModel):
    """Seconds of wall time, `stages_s` one for each of the record's stages; evaluations summed over all examples.

    inference_s: the median time that one image takes to be classified; 0 where it was not measured.
    """

    compile_s: float = 0.0
    run_s: float = 0.0
    stages_s: list[float] = []
    forward_evaluations: int = 0
    gradient_evaluations: int = 0
    inference_s: float = 0.0


class Record(BaseModel):
    """What running one cell found. status "failed": `error` is the traceback and there are no metrics."""

    model_config = ConfigDict(populate_by_name=True)

    schema_version: Literal[1] = Field(SCHEMA, alias="schema")
    id: str
    status: Literal["ok", "failed"] = "ok"
    error: str | None = None
    cell: Cell
    metrics: dict[str, MetricValue] = {}
    per_example: dict[str, list[bool | int | float | None]] = {}
    timing: Timing = Timing()
    flags: list[str] = []
    stages: list[dict[str, Any]] = []
    provenance: dict[str, Any] = {}
    papers: list[str] = []

    @model_validator(mode="after")
    def _has_what_tables_read(self) -> "Record":
        if self.status != "ok" or self.cell.threat not in READ:
            return self
        metrics, arrays = READ[self.cell.threat]
        missing = [key for key in metrics if key not in self.metrics]
        missing += [key for key in arrays if key not in self.per_example]
        if missing:
            raise ValueError(f"it is ok and lacks {', '.join(missing)}")
        lengths = {len(values) for values in self.per_example.values()}
        if lengths != {self.metrics[metrics[-1]].n}:
            raise ValueError(f"per_example has {sorted(lengths)} values, n = {self.metrics[metrics[-1]].n}")
        return self

    def to_json(self) -> str:
        """One JSON object on one line."""
        return json.dumps(self.model_dump(by_alias=True), allow_nan=False)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a record, for programs that read them."""
    return Record.model_json_schema()


def record_of(cell: Cell, outcome: Outcome, timing: Timing, provenance: dict[str, Any]) -> Record:
    """The record of an outcome: arrays of one number an example go into it, the rest is for `write_arrays`."""
    small = {name: _listed(values) for name, values in outcome.arrays.items() if values.ndim == 1}
    metrics = {name: MetricValue(**vars(metric)) for name, metric in outcome.metrics.items()}
    stages = [dict(stage) for stage in outcome.stages]
    timing = timing.model_copy(update={"stages_s": [stage.pop("seconds", 0.0) for stage in stages]})
    return Record(
        id=cell.id,
        cell=cell,
        metrics=metrics,
        per_example=small,
        timing=timing,
        provenance=provenance,
        papers=list(outcome.papers),
        flags=list(outcome.flags),
        stages=stages,
    )


def write(directory: str | Path, record: Record) -> Path:
    """Writes DIRECTORY/cells/ID.json. UserError where the disk is full or may not be written."""
    path = Path(directory, CELLS, f"{record.id}.json")
    write_whole(path, lambda file: file.write(record.to_json().encode() + b"\n"))
    return path


def write_arrays(directory: str | Path, id: str, arrays: dict[str, np.ndarray]) -> Path:
    """Writes DIRECTORY/arrays/ID.npz."""
    path = Path(directory, ARRAYS, f"{id}.npz")
    write_whole(path, lambda file: np.savez_compressed(file, **arrays))
    return path


def read(path: str | Path) -> Record:
    """One record. UserError for a file that is cut short or of another kind, naming the field."""
    try:
        return Record.model_validate_json(Path(path).read_text())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (ValidationError, UnicodeDecodeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": "no text"}
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{path} is no whole record ({where + ': ' if where else ''}{first['msg']}); delete it and run "
            "the sweep again"
        ) from None


def read_all(directory: str | Path) -> tuple[list[Record], list[str]]:
    """All records in DIRECTORY/cells, or in DIRECTORY itself, by id; and a line for each file that is none."""
    root = Path(directory, CELLS) if Path(directory, CELLS).is_dir() else Path(directory)
    if not root.is_dir():
        raise UserError(f"there is no directory '{directory}'")
    records, damaged = [], []
    for path in sorted(root.glob("*.json")):
        try:
            records.append(read(path))
        except UserError as error:
            damaged.append(str(error))
    return records, damaged


def _listed(values: np.ndarray) -> list:
    if values.dtype.kind == "f":
        return [None if not np.isfinite(value) else float(f"{value:.7g}") for value in values]
    return values.tolist()
