"""Two models compared: the difference of their worst-case robust accuracy, image by image.

For each data set, budget and seed: the worst case over the attacks that both have; the difference with Newcombe's score
interval for paired shares; images that only one withstands, and McNemar's exact p. Where there are several seeds: the
mean of the differences with Student's interval over seeds (ddof = 1).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from robustbench_jax.bench.cells import Cell, kind_of_model
from robustbench_jax.bench.groups import array, comparable, grouped, images, name, of_evasion, same_images, victim
from robustbench_jax.bench.records import Record
from robustbench_jax.bench.sheets import Sheet
from robustbench_jax.ops.statistics import mcnemar, paired_difference, t_interval
from robustbench_jax.registry import nearest, short
from robustbench_jax.types import UserError

NOTE = (
    "Worst case over the attacks that both have, in %; its difference with Newcombe's 95% score interval for paired "
    "shares (method 10); images that only one of them withstands; McNemar's exact p. Over seeds: mean of the "
    "differences with the 95% t-interval (ddof = 1)."
)
PARTS = ("training", "model_defence", "recipe")  # what may follow the model in a name


@dataclass(frozen=True)
class Comparison:
    """One data set, budget and seed. a and b: worst-case robust accuracy of n images; difference: a less b."""

    title: str
    seed: int
    attacks: tuple[str, ...]
    n: int
    a: float
    b: float
    difference: float
    low: float
    high: float
    only_a: int
    only_b: int
    p_value: float


@dataclass(frozen=True)
class OverSeeds:
    """The mean of the differences of one data set and budget over so many seeds, with its t-interval."""

    title: str
    seeds: int
    difference: float
    low: float
    high: float


def compare(records: Iterable[Record], a: str, b: str) -> tuple[list[Comparison], list[OverSeeds]]:
    """a and b: models as tables show them, or call strings joined by " + ".

    Raises UserError for a name that no record has, and where the two have no attack in common.
    """
    done = [record for record in of_evasion(records) if record.status == "ok"]
    first, second = (find(done, text) for text in (a, b))
    if first == second:
        raise UserError(f"'{a}' and '{b}' are the same model")
    groups = grouped(done, lambda cell: (*images(cell), cell.budget))
    found = [made for group in groups if (made := _comparison(group, first, second))]
    if not found:
        raise UserError(f"'{a}' and '{b}' have no attack in common, on the same images and in the same budget")
    titles = dict.fromkeys(made.title for made in found)
    return found, [_over(title, each) for title in titles if len(each := [f for f in found if f.title == title]) > 1]


def find(records: list[Record], text: str) -> tuple:
    """Which model (groups.victim) a name or call string means."""
    known = {name(record.cell): victim(record.cell) for record in records}
    written = _written(text)
    for candidate in (text, written, f"{written} + standard"):
        if candidate in known:
            return known[candidate]
    raise UserError(f"no model '{text}' among the records{nearest(text, known)}")


def sheet(found: list[Comparison], over: list[OverSeeds], a: str, b: str) -> Sheet:
    """Both as one table."""
    several = {made.title for made in over}
    rows = [_row(made, several) for made in found]
    for made in over:
        mean = _interval(made.difference, made.low, made.high)
        rows.append([f"{made.title} · mean of {made.seeds} seeds", "", "", "", mean, "", "", ""])
    head = ["Images and budget", "n", "A", "B", "A − B", "only A", "only B", "p"]
    return Sheet(f"A: {a} · B: {b}", NOTE, head, rows)


def _comparison(group: list[Record], first: tuple, second: tuple) -> Comparison | None:
    ours, theirs = ({r.cell.attack: r for r in group if victim(r.cell) == wanted} for wanted in (first, second))
    common = [attack for attack in ours if attack in theirs]
    pairs = [[records[attack] for attack in common] for records in (ours, theirs)]
    if not common or not all(map(comparable, pairs)) or not same_images(pairs[0][0], pairs[1][0]):
        return None
    a, b = (np.all([array(record, "robust") for record in each], axis=0) for each in pairs)
    difference, (low, high) = paired_difference(a, b)
    test, cell = mcnemar(a, b), group[0].cell
    shown = tuple(ours[attack].cell.show("attack") for attack in common)
    shares = float(np.mean(a)), float(np.mean(b)), difference, low, high
    return Comparison(_title(cell), cell.seed, shown, len(a), *shares, test.only_a, test.only_b, test.p_value)


def _over(title: str, found: list[Comparison]) -> OverSeeds:
    mean, (low, high) = t_interval(np.array([made.difference for made in found]))
    return OverSeeds(title, len(found), mean, low, high)


def _title(cell: Cell) -> str:
    size = [f"{cell.examples} images"] * bool(cell.examples)
    return " · ".join([cell.show("dataset"), cell.show("budget"), *size])


def _row(made: Comparison, several: set[str]) -> list[str]:
    seed = f" · seed {made.seed}" * (made.title in several or made.seed != 0)
    title = f"{made.title}{seed} · {', '.join(made.attacks)}"
    p = "< 0.001" if made.p_value < 0.001 else f"{made.p_value:.3f}"
    shares = [f"{100 * share:.1f}" for share in (made.a, made.b)]
    difference = _interval(made.difference, made.low, made.high)
    return [title, str(made.n), *shares, difference, str(made.only_a), str(made.only_b), p]


def _interval(value: float, low: float, high: float) -> str:
    return f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _written(text: str) -> str:
    """Call strings as tables show them; what is none stays as it is."""
    model, *rest = text.split(" + ")
    return " + ".join([_model(model), *map(_part, rest)])


def _model(text: str) -> str:
    try:
        kind = kind_of_model(text)
        return short(kind, text) if kind else text
    except UserError:
        return text


def _part(text: str) -> str:
    for kind in PARTS:
        try:
            return short(kind, text)
        except UserError:
            continue
    return text
