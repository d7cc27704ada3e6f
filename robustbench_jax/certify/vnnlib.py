"""VNN-LIB 1.0: what is asked of a network, as boxes of inputs and half-spaces of outputs, read from a file.

Reference: Demarchi, Guidotti, Pulina and Tacchella, FoMLAS 2023; the subset of SMT-LIB 2 that VNN-COMP uses:
declare-const and assert with <=, >=, and, or, +, - and *. The assertions describe the counterexamples, so that a
property holds where they are unsatisfiable. Any nesting is multiplied out to cases; a counterexample meets one of them.
Shapes: D inputs, C outputs, K rows; float64.
"""

import gzip
import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from robustbench_jax.certify.smtlib import Form, Token, arguments, forms, head, wrong
from robustbench_jax.registry import nearest
from robustbench_jax.types import UserError

MOST = 100_000  # cases that a file may multiply out to
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
NAME = re.compile(r"([XY])_(\d+)")
COMMANDS, TRUTHS, SUMS = ("declare-const", "assert"), ("<=", ">=", "and", "or"), ("+", "-", "*")

Variable = tuple[str, int]
Terms = dict[Variable | None, float]  # coefficients; None: the constant


@dataclass(frozen=True)
class Case:
    """Inputs x [D] with low <= x <= high (float64 [D]) whose outputs y [C] have rows @ y + offsets <= 0, all K."""

    low: np.ndarray
    high: np.ndarray
    rows: np.ndarray
    offsets: np.ndarray

    @property
    def empty(self) -> bool:
        return bool((self.low > self.high).any())

    def met(self, x: np.ndarray, y: np.ndarray) -> bool:
        """Whether x [D] with outputs y [C] is a counterexample, in float64 and with no tolerance."""
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        inside = (self.low <= x).all() and (x <= self.high).all()
        return bool(inside and np.isfinite(y).all() and (self.rows @ y + self.offsets <= 0).all())


@dataclass(frozen=True)
class Specification:
    """A counterexample is one of any case. inputs, outputs: D and C."""

    cases: tuple[Case, ...]
    inputs: int
    outputs: int

    def arranged(self, order: np.ndarray) -> "Specification":
        """The same of inputs in another order: input i becomes number order[i]."""
        back = np.argsort(order)
        return replace(self, cases=tuple(replace(c, low=c.low[back], high=c.high[back]) for c in self.cases))


class Atom(NamedTuple):
    """terms <= 0."""

    terms: Terms
    at: Form


def read(path: str | Path) -> Specification:
    """Reads a file, plain or .gz. Raises UserError with the line and what is wrong there."""
    try:
        found = Path(path).read_bytes()
        text = (gzip.decompress(found) if found[:2] == b"\x1f\x8b" else found).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    try:
        return parse(text)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def parse(text: str) -> Specification:
    """Raises UserError for what is no VNN-LIB, unknown names, products of variables, inputs without bounds or with
    others than bounds, and numbers of variables with gaps.
    """
    variables: dict[str, Token] = {}
    assertions = []
    for form in forms(text):
        if head(form, COMMANDS) == "declare-const":
            _declare(form, variables)
        else:
            assertions.append(_conjunctions(arguments(form, 1)[0], variables))
    inputs, outputs = (_count(variables, letter) for letter in "XY")
    cases = tuple(_cases(assertions, inputs, outputs))
    for low, high in {(id(c.low), id(c.high)): (c.low, c.high) for c in cases}.values():
        _require_bounds(low, high, variables)
    return Specification(cases, inputs, outputs)


def _declare(form: Form, variables: dict[str, Token]) -> None:
    name, sort = arguments(form, 2)
    if not isinstance(name, Token) or not NAME.fullmatch(name.text):
        raise wrong(name, "inputs are called X_0, X_1, ... and outputs Y_0, Y_1, ...")
    if not isinstance(sort, Token) or sort.text != "Real":
        raise wrong(sort, "variables are Real")
    if name.text in variables:
        raise wrong(name, f"is declared already, in line {variables[name.text].line}")
    variables[name.text] = name


def _count(variables: dict[str, Token], letter: str) -> int:
    """How many there are of one kind; UserError for none and for gaps."""
    own = {_variable(name)[1]: token for name, token in variables.items() if name[0] == letter}
    if not own:
        raise UserError(f"declares no {'inputs X_0, X_1' if letter == 'X' else 'outputs Y_0, Y_1'}, ...")
    if max(own) >= len(own):
        gap = next(i for i in range(len(own)) if i not in own)
        raise wrong(own[max(own)], f"{letter}_{gap} is not declared")
    return len(own)


def _conjunctions(form: Form | Token, variables: dict[str, Token]) -> list[list[Atom]]:
    """The cases of a truth, multiplied out: any list of atoms that all hold."""
    first = head(form, TRUTHS)
    if first in ("<=", ">="):
        left, right = (_terms(side, variables) for side in arguments(form, 2))
        return [[Atom(_sum(left, _scaled(right, -1.0)) if first == "<=" else _sum(right, _scaled(left, -1.0)), form)]]
    parts = [_conjunctions(part, variables) for part in arguments(form)]
    if first == "or":
        return [case for part in parts for case in part]
    return [list(itertools.chain(shared, *choice)) for shared, choice in _product(parts, form)]


def _product(parts: list[list[list[Atom]]], at: Form | None) -> Iterator[tuple[list[Atom], tuple]]:
    """For each case of the conjunction: the atoms that all cases share, and those of its own."""
    shared = [atom for part in parts if len(part) == 1 for atom in part[0]]
    several = [part for part in parts if len(part) != 1]
    count = math.prod(map(len, several))
    if count > MOST:
        told = f"multiplies out to {count} cases; {MOST} are allowed"
        raise UserError(told) if at is None else wrong(at, told)
    for choice in itertools.product(*several):
        yield shared, choice


def _cases(assertions: list[list[list[Atom]]], inputs: int, outputs: int) -> Iterator[Case]:
    """Those without a falsehood of constants. Boxes are shared where a case has no bounds of its own."""
    low, high = np.full(inputs, -np.inf), np.full(inputs, np.inf)
    base = None
    for shared, choice in _product(assertions, None):
        if base is None:
            base = _narrowed(low, high, shared), _rows(shared, outputs)
        own = list(itertools.chain(*choice))
        if not any(_kind(atom) is None and atom.terms.get(None, 0.0) > 0 for atom in (*own, *base[1][2])):
            rows, offsets, _ = _rows(own, outputs)
            yield Case(
                *_narrowed(*base[0], own), np.concatenate([base[1][0], rows]), np.concatenate([base[1][1], offsets])
            )


def _narrowed(low: np.ndarray, high: np.ndarray, atoms: list[Atom]) -> tuple[np.ndarray, np.ndarray]:
    """The box with the atoms' bounds; itself where there are none."""
    bounds = [atom for atom in atoms if _kind(atom) == "X"]
    if not bounds:
        return low, high
    low, high = low.copy(), high.copy()
    for atom in bounds:
        (_, i), rate = next((v, a) for v, a in atom.terms.items() if v is not None and a)
        value = -atom.terms.get(None, 0.0) / rate
        if rate > 0:
            high[i] = min(high[i], value)
        else:
            low[i] = max(low[i], value)
    return low, high


def _rows(atoms: list[Atom], outputs: int) -> tuple[np.ndarray, np.ndarray, list[Atom]]:
    """(rows [K, C], offsets [K], atoms without variables)."""
    found = [atom for atom in atoms if _kind(atom) == "Y"]
    rows, offsets = np.zeros((len(found), outputs)), np.zeros(len(found))
    for k, atom in enumerate(found):
        for variable, rate in atom.terms.items():
            if variable is None:
                offsets[k] = rate
            elif rate:
                rows[k, variable[1]] = rate
    return rows, offsets, [atom for atom in atoms if _kind(atom) is None]


def _kind(atom: Atom) -> str | None:
    """ "X" for a bound of an input, "Y" for a half-space of outputs, None for constants."""
    used = [v for v, rate in atom.terms.items() if v is not None and rate]
    letters = {letter for letter, _ in used}
    if letters == {"X", "Y"}:
        raise wrong(atom.at, "compares inputs with outputs; inputs have bounds that are numbers")
    if letters == {"X"} and len(used) > 1:
        names = " and ".join(f"X_{i}" for _, i in used[:2])
        raise wrong(atom.at, f"is no bound of one input: it has {names}; only boxes of inputs are known")
    return next(iter(letters), None)


def _terms(term: Form | Token, variables: dict[str, Token]) -> Terms:
    """A linear term: its coefficients."""
    if isinstance(term, Token):
        return _leaf(term, variables)
    first = head(term, SUMS)
    parts = [_terms(part, variables) for part in arguments(term)]
    if first == "-":
        parts = [parts[0], *(_scaled(part, -1.0) for part in parts[1:])] if parts[1:] else [_scaled(parts[0], -1.0)]
    if first != "*":
        return _sum(*parts)
    factors = [part for part in parts if set(part) - {None}]
    if len(factors) > 1:
        raise wrong(term, "is a product of variables; only linear terms are known")
    constant = math.prod(part.get(None, 0.0) for part in parts if not set(part) - {None})
    return _scaled(factors[0] if factors else {None: 1.0}, constant)


def _leaf(token: Token, variables: dict[str, Token]) -> Terms:
    if NUMBER.fullmatch(token.text):
        if not math.isfinite(float(token.text)):
            raise wrong(token, "is too large a number")
        return {None: float(token.text)}
    if token.text not in variables:
        hint = nearest(token.text, variables) if NAME.fullmatch(token.text) else "; numbers, X_i and Y_i are known"
        raise wrong(token, f"is not declared{hint}")
    return {_variable(token.text): 1.0}


def _variable(name: str) -> Variable:
    return name[0], int(name[2:])


def _sum(*parts: Terms) -> Terms:
    found: Terms = {}
    for part in parts:
        for variable, rate in part.items():
            found[variable] = found.get(variable, 0.0) + rate
    return found


def _scaled(terms: Terms, factor: float) -> Terms:
    return {variable: rate * factor for variable, rate in terms.items()}


def _require_bounds(low: np.ndarray, high: np.ndarray, variables: dict[str, Token]) -> None:
    for side, values in (("lower", low), ("upper", high)):
        if not np.isfinite(values).all():
            name = f"X_{np.flatnonzero(~np.isfinite(values))[0]}"
            raise wrong(variables[name], f"has no {side} bound")
