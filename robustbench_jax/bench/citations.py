"""What a result is to be cited with: the papers of everything that its cell used.

A cell names what it used by call strings, and everything registered names its paper, so that this is computed anew from
any record, whatever keys an older version wrote into it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robustbench_jax.bench import records
from robustbench_jax.bench.cells import KINDS, Cell, kind_of_model
from robustbench_jax.models import zoo
from robustbench_jax.models.robustbench import RobustBench, published
from robustbench_jax.references import SUITE, key_at, references
from robustbench_jax.registry import PACKAGES, build, canonical, discover, entry, nearest, parse
from robustbench_jax.types import UserError

ORDER = ("attack", "certifier", "budget", "dataset")  # what a record names first


@dataclass(frozen=True)
class Citations:
    """used: what is taken from each paper, by BibTeX key. doubts: what could not be cited, a line each."""

    used: dict[str, list[str]] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)

    @property
    def keys(self) -> list[str]:
        return sorted(self.used)

    def bibtex(self) -> str:
        """The entries in the order of their keys, each below a comment that says what used it."""
        return "\n".join(f"% {', '.join(self.used[key])}\n{references()[key].text}" for key in self.keys)

    def add(self, key: str | None, what: str) -> None:
        """Nothing for what is taken from no paper."""
        if key is not None and key not in references():
            self.doubt(f"{what}: there is no reference '{key}'")
        elif key is not None and what not in self.used.setdefault(key, []):
            self.used[key].append(what)

    def doubt(self, line: str) -> None:
        if line not in self.doubts:
            self.doubts.append(line)


def cite(names: Iterable[str]) -> Citations:
    """What everything named is to be cited with: results directories, call strings, models of the zoo.

    Raises UserError for what is none of them.
    """
    found = Citations()
    found.add(SUITE, "the benchmark")
    for name in names:
        if name and Path(name).is_dir():
            _cite_records(found, name)
        else:
            for kind, text in _named(name):
                for key, what in sources(kind, text):
                    found.add(key, what)
    return found


def papers(cell: Cell) -> list[str]:
    """BibTeX keys of everything that the cell used."""
    used, _ = _of_cell(cell)
    return list(dict.fromkeys(key for key, _ in used if key))


def sources(kind: str, text: Any) -> Iterator[tuple[str | None, str]]:
    """(key, what is taken from it) of a canonical call and of the calls inside it; no key for what has no paper."""
    call = parse(text)
    made = entry(kind, call.name)
    yield made.paper, f"{kind.replace('_', ' ')} {call.name}"
    for name, value in call.kwargs:
        of = made.parts.get(name)
        for part in (value if isinstance(value, tuple) else (value,)) if of and value is not None else ():
            yield from sources(of, part)
    if made.make in (zoo.Shipped, RobustBench):
        yield from _trained(build(kind, call))


def _trained(model: Any) -> Iterator[tuple[str | None, str]]:
    """What a model that ships was made of, and the paper that a published one comes from."""
    if isinstance(model, zoo.Shipped):
        told = zoo.description(model.name)
        for kind, name in (("model", "architecture"), ("training", "training"), ("dataset", "dataset")):
            yield from sources(kind, canonical(kind, told[name]))
    if isinstance(model, RobustBench):
        yield key_at(published(model.name, model.dataset, model.threat)["paper"]), f"model {model.name}"


def _of_cell(cell: Cell) -> tuple[list[tuple[str | None, str]], list[str]]:
    """`sources` of all its fields, and a line for each that no registry knows, such as data given from Python."""
    kinds = {name: KINDS[name] for name in (*ORDER, *KINDS)}
    named = [(kind, getattr(cell, name)) for name, kind in kinds.items()]
    used, unknown = [], []
    for kind, text in [*named, ("threat", cell.threat), ("model", cell.model)]:
        try:
            kind, text = _model(text) if kind == "model" else (kind, text)
            used += sources(kind, text) if text else ()
        except UserError as error:
            unknown.append(f"not cited: {error}")
    return used, unknown


def _model(text: str) -> tuple[str, str]:
    kind = kind_of_model(text)
    return (kind, text) if kind else ("pretrained", f"zoo(name={text!r})")


def _cite_records(found: Citations, directory: str) -> None:
    kept, damaged = records.read_all(directory)
    if not kept:
        raise UserError(f"{directory} holds no records")
    for line in damaged:
        found.doubt(f"passed over: {line}")
    for record in kept:
        used, unknown = _of_cell(record.cell)
        for key, what in used:
            found.add(key, what)
        for line in unknown:
            found.doubt(line)
        for key in record.papers:
            if key not in references():
                found.doubt(f"a record names '{key}', and there is no such reference")


def _named(text: str) -> list[tuple[str, str]]:
    """(kind, canonical call string) of everything that a call string may mean: a name may be of several kinds."""
    if "/" in text and "(" not in text:
        if text not in zoo.names():
            folders = [str(path) for path in Path(text).parent.glob("*/")]
            raise UserError(f"no results directory or model of the zoo '{text}'{nearest(text, folders + zoo.names())}")
        return [_model(text)]
    name = parse(text).name
    known = {kind: discover(kind) for kind in PACKAGES}
    kinds = [kind for kind, entries in known.items() if name in entries]
    if not kinds:
        everything = {name for entries in known.values() for name in entries}
        raise UserError(f"nothing is registered as '{name}'{nearest(name, sorted(everything))}")
    found, wrong = [], []
    for kind in kinds:
        try:
            found.append((kind, canonical(kind, text)))
        except UserError as error:
            wrong.append(error)
    if not found:
        raise wrong[0]
    return found
