"""The corruption table as people read it: sheets of text (bench/sheets.py), and as CSV.

One sheet compares the models, one gives their accuracy by corruption, one for each model its accuracy by severity.
"""

import csv
import io

from robustbench_jax.bench.corruption_table import Board, Line
from robustbench_jax.bench.records import MetricValue
from robustbench_jax.bench.sheets import Sheet
from robustbench_jax.data.corrupted import COMMON, SEVERITIES

CSV_HEAD = ("dataset", "model", "corruption", "severity", "accuracy", "low", "high", "n", "status")
NOTE = (
    "Accuracies in % of all images, with 95% intervals: exact (Clopper-Pearson) for a cell, bootstrap for a mean. "
    "Mean: of the 15 common corruptions at 5 severities; extra: of the 4 further ones. –: a cell is missing, or there "
    "is no baseline."
)


def sheets(board: Board) -> list[Sheet]:
    """The models, the corruptions, and the severities of each model."""
    against = f"; mCE against {board.baseline}" if board.baseline else "; no baseline for mCE"
    about = f"n = {board.n}{against}. {NOTE}"
    found = [Sheet(f"{board.title} · common corruptions", about, *_models(board)), _by_corruption(board)]
    return found + [_by_severity(board, line) for line in board.lines]


def table_csv(boards: list[Board]) -> str:
    """One row for each cell that was run: made to be read by programs."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_HEAD)
    for board in boards:
        for line in board.lines:
            for place in sorted({*line.accuracy, *line.failed}):
                metric = line.accuracy.get(place)
                numbers = [metric.value, metric.low, metric.high, metric.n] if metric else ["", "", "", 0]
                writer.writerow([board.title, line.model, *place, *numbers, "ok" if metric else "failed"])
    return file.getvalue()


def percent(metric: MetricValue | None) -> str:
    """ "86.8 [83.6, 89.6]", in per cent; without the interval where there is none; a dash where there is nothing."""
    if metric is None or metric.value is None:
        return "–"
    interval = "" if metric.low is None else f" [{100 * metric.low:.1f}, {100 * metric.high:.1f}]"
    return f"{100 * metric.value:.1f}{interval}"


def _models(board: Board) -> tuple[list[str], list[list[str]]]:
    head = ["Model", "Clean", "Mean", "Extra", "mCE", "Relative mCE", "Cells"]
    every = len(COMMON) * SEVERITIES
    rows = [
        [line.model, *map(percent, (line.clean, line.mean, line.extra, line.mce, line.relative))]
        + [f"{every - line.missing} of {every}"]
        for line in board.lines
    ]
    return head, rows


def _by_corruption(board: Board) -> Sheet:
    note = "Mean accuracy over severities" + ("; in brackets the corruption error" if board.baseline else "")
    rows = [
        [corruption, *(_over_severities(line, corruption) for line in board.lines)] for corruption in board.corruptions
    ]
    return Sheet(f"{board.title} · by corruption", note, ["Corruption", *(line.model for line in board.lines)], rows)


def _over_severities(line: Line, corruption: str) -> str:
    values = [line.accuracy.get((corruption, severity)) for severity in range(1, SEVERITIES + 1)]
    if any(metric is None for metric in values):
        return "failed" if any(place[0] == corruption for place in line.failed) else "–"
    error = f" ({100 * line.ce[corruption]:.0f})" if corruption in line.ce else ""
    return f"{100 * sum(metric.value for metric in values) / SEVERITIES:.1f}{error}"


def _by_severity(board: Board, line: Line) -> Sheet:
    levels = range(1, SEVERITIES + 1)
    rows = [[corruption, *(_cell(line, corruption, level) for level in levels)] for corruption in board.corruptions]
    return Sheet(f"{board.title} · {line.model} by severity", "", ["Corruption", *map(str, levels)], rows)


def _cell(line: Line, corruption: str, severity: int) -> str:
    if (corruption, severity) in line.failed:
        return "failed"
    return percent(line.accuracy.get((corruption, severity)))
