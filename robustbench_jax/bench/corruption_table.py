"""The corruption table: accuracy by corruption and severity, its mean, and mCE against a stated baseline.

Pure functions of records. With E the error of a model and B that of the baseline, for one corruption and summed over
the five severities, its corruption error is E / B and the relative one (E - clean) / (B - clean); mCE is the mean over
the 15 common corruptions, 100% for the baseline itself. Nothing is said of a mean that lacks a cell.

Reference: Hendrycks & Dietterich, ICLR 2019, arXiv:1903.12261; AlexNet's errors are those of its authors' program.
Shapes: K corruptions, N images, R resamples.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from robustbench_jax.bench.cells import Cell
from robustbench_jax.bench.groups import name
from robustbench_jax.bench.records import MetricValue, Record
from robustbench_jax.data.corrupted import COMMON, EXTRA, SEVERITIES
from robustbench_jax.ops.statistics import bootstrap_mean
from robustbench_jax.registry import build, entry, nearest, parse, short
from robustbench_jax.types import UserError

ALEXNET = "AlexNet (published)"
ALEXNET_CLEAN = 0.435
ALEXNET_ERRORS = (
    *(0.886428, 0.894468, 0.922640, 0.819880, 0.826268, 0.785948, 0.798360, 0.866816, 0.826572, 0.819324, 0.564592),
    *(0.853204, 0.646056, 0.717840, 0.606500),
)  # in the order of COMMON, means over the severities
RESAMPLES = 2000
MEAN = "mean accuracy over {} corruptions at 5 severities; 95% bootstrap interval over images"
MCE = "mean over the 15 common corruptions of the error, summed over severities, divided by that of {}"
RELATIVE = "as mCE, of errors less the clean error"

Place = tuple[str, int]  # corruption, severity


@dataclass
class Line:
    """One model. accuracy: by corruption and severity, what was measured; failed: what was tried.

    mean, extra, mce, relative: None where a cell is missing, or there is no baseline. ce: by corruption, 1 is the
    baseline. missing: how many of the 75 common cells are not there. errors: bool [N] by place; clean bool [N].
    """

    model: str
    accuracy: dict[Place, MetricValue] = field(default_factory=dict)
    failed: set[Place] = field(default_factory=set)
    clean: MetricValue | None = None
    mean: MetricValue | None = None
    extra: MetricValue | None = None
    mce: MetricValue | None = None
    relative: MetricValue | None = None
    ce: dict[str, float] = field(default_factory=dict)
    errors: dict[Place, np.ndarray] = field(default_factory=dict, repr=False)
    wrong: np.ndarray | None = field(default=None, repr=False)
    weights: set[str | None] = field(default_factory=set)

    @property
    def missing(self) -> int:
        return sum(place not in self.errors for place in places(COMMON))

    def summed(self, names: tuple[str, ...]) -> np.ndarray | None:
        """Errors [K, N], means over severities; None where one is missing or the numbers of images differ."""
        rows = [self.errors.get(place) for place in places(names)]
        if any(row is None for row in rows) or len({len(row) for row in rows}) != 1 or len(self.weights) > 1:
            return None
        return np.stack(rows).reshape(len(names), SEVERITIES, -1).mean(1)


@dataclass
class Board:
    """One data set: lines from the highest mean accuracy on. baseline: what mCE is measured against, or None."""

    title: str
    n: int
    corruptions: list[str]
    lines: list[Line]
    baseline: str | None


def places(names: Iterable[str]) -> list[Place]:
    return [(corruption, severity) for corruption in names for severity in range(1, SEVERITIES + 1)]


def boards(records: Iterable[Record], baseline: str | None = None) -> list[Board]:
    """One for each (dataset, split, examples, seed). baseline: a model's name as tables show it; for ImageNet, where
    there is none given, AlexNet's published errors.

    Raises UserError for a baseline that no record is of.
    """
    groups: dict[tuple, dict[tuple, Line]] = {}
    ours = [record for record in records if record.cell.threat == "corruption"]
    for record in ours:
        group = groups.setdefault(_images(record.cell), {})
        model = (record.cell.model, record.cell.defence, record.cell.recipe)
        _enter(group.setdefault(model, Line(name(record.cell))), record)
    for key, group in groups.items():
        _fill_in_clean(group, groups.get(_clean_images(key), {}))
    known = sorted({line.model for group in groups.values() for line in group.values()})
    if ours and baseline is not None and baseline not in known:
        raise UserError(f"no model '{baseline}' among the corruption records{nearest(baseline, known)}")
    made = [_board(key, list(group.values()), baseline) for key, group in groups.items()]
    return sorted((board for board in made if board.corruptions), key=lambda board: board.title)


def alarms(records: Iterable[Record]) -> list[str]:
    """Models whose records are of different weights, so that nothing is averaged over them."""
    return [
        f"{line.model} · {board.title}: its records are of different weights; run the sweep again"
        for board in boards(records)
        for line in board.lines
        if len(line.weights) > 1
    ]


def corruption_of(cell: Cell) -> Place | None:
    """Which corruption at which severity a cell measures; None for images that are clean."""
    found = dict(parse(cell.dataset).kwargs)
    if "corruption" in found:
        return found["corruption"], found["severity"]
    attack = parse(cell.attack).name
    return None if attack == "identity" else (attack, int(build("budget", cell.budget).level))


def _images(cell: Cell) -> tuple:
    """What the cells of one board share; a corrupted data set's corruption and severity are left out of its name."""
    call = parse(cell.dataset)
    rest = {key: value for key, value in call.kwargs if key not in ("corruption", "severity")}
    if len(rest) == len(call.kwargs):
        return short("dataset", cell.dataset), call.name, cell.split, cell.examples, cell.seed
    shown = f"{call.name}({', '.join(repr(value) for value in rest.values())})" if rest else call.name
    return shown, call.name, cell.split, cell.examples, cell.seed


def _clean_images(key: tuple) -> tuple:
    """The same of the clean data set that a corrupted one was made from; of nothing for others."""
    try:
        clean = entry("dataset", key[1]).facts.get("clean")
    except UserError:  # a record of something that this version does not have
        clean = None
    return clean, clean, *key[2:]


def _fill_in_clean(group: dict[tuple, Line], clean: dict[tuple, Line]) -> None:
    for model, line in group.items():
        found = clean.get(model)
        if line.clean is None and found and found.weights == line.weights:
            line.clean, line.wrong = found.clean, found.wrong


def _enter(line: Line, record: Record) -> None:
    place = corruption_of(record.cell)
    if record.status != "ok":
        line.failed |= {place} if place else set()
        return
    right = np.array(record.per_example["robust"], bool)
    line.weights.add(record.provenance.get("weights"))
    if place is None:
        line.clean, line.wrong = record.metrics["corrupted_accuracy"], ~right
        return
    line.accuracy[place], line.errors[place] = record.metrics["corrupted_accuracy"], ~right
    if "clean_accuracy" in record.metrics and line.clean is None:
        line.clean = record.metrics["clean_accuracy"]
        line.wrong = ~np.array(record.per_example["clean_correct"], bool)


def _board(key: tuple, lines: list[Line], wanted: str | None) -> Board:
    shown, dataset, split, _, seed = key
    base = next((line for line in lines if line.model == wanted), None)
    published = wanted is None and dataset.startswith("imagenet2012")
    for line in lines:
        line.mean, line.extra = (_mean(line.summed(names), len(names)) for names in (COMMON, EXTRA))
        if base or published:
            _compare(line, base)
    lines.sort(key=lambda line: (line.mean is None, -(line.mean.value if line.mean else 0), line.model))
    tried = {place[0] for line in lines for place in (*line.accuracy, *line.failed)}
    more = [split] * (split != "test") + [f"seed {seed}"] * bool(seed)
    n = max((metric.n for line in lines for metric in line.accuracy.values()), default=0)
    corruptions = [corruption for corruption in (*COMMON, *EXTRA) if corruption in tried]
    title = " · ".join([shown, *more])
    return Board(title, n, corruptions, lines, base.model if base else ALEXNET if published else None)


def _mean(errors: np.ndarray | None, count: int) -> MetricValue | None:
    if errors is None:
        return None
    values = 1 - errors.mean(0)
    low, high = bootstrap_mean(values) if len(values) > 1 else (None, None)
    return MetricValue(value=float(values.mean()), n=len(values), low=low, high=high, definition=MEAN.format(count))


def _compare(line: Line, base: Line | None) -> None:
    """Fills in ce, mce and relative against another model, or AlexNet's published errors for None."""
    mine = line.summed(COMMON)
    theirs = base.summed(COMMON) if base else None if mine is None else _constant(ALEXNET_ERRORS, mine.shape[1])
    if mine is None or theirs is None or mine.shape != theirs.shape:
        return
    of = base.model if base else ALEXNET
    line.mce, ratios = _ratio(mine, theirs, MCE.format(of))
    line.ce = dict(zip(COMMON, ratios, strict=True)) if line.mce else {}
    clean = base.wrong if base else np.full(mine.shape[1], ALEXNET_CLEAN)
    if line.wrong is not None and clean is not None and len(line.wrong) == len(clean) == mine.shape[1]:
        line.relative, _ = _ratio(mine - line.wrong, theirs - clean, RELATIVE)


def _constant(errors: tuple[float, ...], n: int) -> np.ndarray:
    return np.repeat(np.array(errors)[:, None], n, axis=1)


def _ratio(mine: np.ndarray, theirs: np.ndarray, text: str) -> tuple[MetricValue | None, list[float]]:
    """The mean over K of sums over N, divided, with its paired bootstrap interval over images; and the K ratios.

    None where one of the baseline's errors is not positive; no interval where one of a resample is not.
    """
    n = mine.shape[1]
    top, bottom = mine.mean(1), theirs.mean(1)
    if not np.all(bottom > 0):
        return None, []
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), RESAMPLES) / n  # [R, N]
    tops, bottoms = drawn @ mine.T, drawn @ theirs.T
    whole = n > 1 and bool(np.all(bottoms > 0))
    low, high = np.quantile((tops / bottoms).mean(1), (0.025, 0.975)).tolist() if whole else (None, None)
    ratios = top / bottom
    return MetricValue(value=float(ratios.mean()), n=n, low=low, high=high, definition=text), ratios.tolist()
