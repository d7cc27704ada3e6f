"""Sweep files: TOML to cells.

title = "..."                 expected = "what should come out"      duration = "how long it takes"
baseline = "MODEL"            # corruptions only: what mCE is measured against
[[sweep]]                     # a list is an axis, a table is the product of its axes
model = ["fashion_mnist/clean/standard", "fashion_mnist/linf/pgd_at"]
attack = "pgd(steps=40)"
budget = ["linf(0.05)", "linf(0.1)"]
[runtime]                     # speed only: width, chunk, devices
"""

import itertools
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from robustbench_jax import toml_tables
from robustbench_jax.bench.cells import Cell, make_cell
from robustbench_jax.bench.groups import name as shown
from robustbench_jax.ops.runtime import Runtime
from robustbench_jax.registry import nearest
from robustbench_jax.types import UserError

TEXTS = ("title", "expected", "duration", "baseline")
RUNTIME = tuple(field.name for field in fields(Runtime))


@dataclass(frozen=True)
class Sweep:
    """name: of the file; title, expected and duration: what the file says of itself; cells in the file's order.

    baseline: the model that corruption errors are measured against, as tables show it; empty for none.
    """

    name: str
    title: str
    expected: str
    duration: str
    baseline: str
    cells: tuple[Cell, ...]
    runtime: Runtime


def load_sweep(path: str | Path, overrides: list[str] | None = None) -> Sweep:
    """Reads a sweep file and checks every cell of it.

    overrides: "examples=100" for every [[sweep]], "sweep.0.examples=100" for the first one, "runtime.width=64".

    Raises UserError that names the file and what is wrong in it.
    """
    tables = toml_tables.read(path)
    toml_tables.named(path, _check_tables, tables)
    for override in overrides or ():
        _override(tables, override)
    return toml_tables.named(path, _sweep, Path(path).stem, tables)


def _check_tables(tables: dict[str, Any]) -> None:
    """Before anything is overridden: the file has the tables that a sweep file has."""
    toml_tables.require_known(tables, (*TEXTS, "sweep", "runtime"), "a sweep file")
    sweeps = tables.get("sweep", [])
    if isinstance(sweeps, dict):
        raise UserError("[sweep] must be written [[sweep]]: there can be several")
    if not isinstance(sweeps, list) or not sweeps or not all(isinstance(table, dict) for table in sweeps):
        raise UserError("there is no [[sweep]] in it")
    if not isinstance(tables.get("runtime", {}), dict):
        raise UserError(f"runtime = {tables['runtime']!r} must be a table; write [runtime]")


def _sweep(name: str, tables: dict[str, Any]) -> Sweep:
    runtime = tables.get("runtime", {})
    toml_tables.require_known(runtime, RUNTIME, "[runtime]")
    cells = {cell.id: cell for table in tables["sweep"] for cell in _product(table)}
    models, baseline = sorted({shown(cell) for cell in cells.values()}), tables.get("baseline")
    if baseline and baseline not in models:
        raise UserError(f"baseline = '{baseline}' is no model of the sweep{nearest(str(baseline), models)}")
    return Sweep(name, *(str(tables.get(key, "")) for key in TEXTS), tuple(cells.values()), Runtime(**runtime))


def _product(table: dict[str, Any]) -> list[Cell]:
    for key in table:
        if key not in Cell.model_fields:
            raise UserError(f"no key '{key}' in [[sweep]]{nearest(key, Cell.model_fields)}")
        if table[key] == []:
            raise UserError(f"{key} = [] leaves no cell")
        for value in table[key] if isinstance(table[key], list) else [table[key]]:
            if not isinstance(value, str | int):
                raise UserError(f"{key}: {value!r} must be text or a whole number; a list of them is an axis")
    axes = [value if isinstance(value, list) else [value] for value in table.values()]
    return [make_cell(**dict(zip(table, values, strict=True))) for values in itertools.product(*axes)]


def _override(tables: dict[str, Any], text: str) -> None:
    """Applies one "key=value" to tables that were checked: the value as TOML has it, or as plain text."""
    key, equals, written = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {text}: write key=value, e.g. --set examples=100")
    try:
        value = tomllib.loads(f"value = {written}")["value"]
    except tomllib.TOMLDecodeError:
        value = written.strip()
    section, _, name = key.strip().rpartition(".")
    chosen = _chosen(tables["sweep"], section)
    if section == "runtime":
        tables.setdefault("runtime", {})[name] = value
    elif not section and name in TEXTS:
        tables[name] = value
    elif chosen and name in Cell.model_fields:
        for table in chosen:
            table[name] = value
    else:
        places = ("", *(f"sweep.{i}." for i in range(len(tables["sweep"]))))
        fields_of_cells = (f"{place}{field}" for place in places for field in Cell.model_fields)
        known = (*fields_of_cells, *TEXTS, *(f"runtime.{field}" for field in RUNTIME))
        raise UserError(f"--set {text}: no key '{key.strip()}'{nearest(key.strip(), known)}")


def _chosen(sweeps: list[dict], section: str) -> list[dict]:
    """The [[sweep]] tables that a key's section means: "" for all, "sweep.0" for the first; none for other text."""
    if not section:
        return sweeps
    word, _, number = section.partition(".")
    return sweeps[int(number) :][:1] if word == "sweep" and number.isdecimal() else []
