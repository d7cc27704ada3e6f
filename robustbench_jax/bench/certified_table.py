"""Attacked and certified accuracy of each model as CSV: one row a model and budget, the best of all certifiers.

Between the two lies what nobody knows: images that no attack broke and no certifier proved.
"""

import csv
import io

from robustbench_jax.bench.leaderboard import Row, Table

NOTE = (
    "Certified: by any certifier of the model itself. Undecided: withstood every attack, is not certified, and no "
    "certifier met a counterexample; of MODEL + CERTIFIER, a model made of another, nothing was attacked."
)
COLUMNS = {"clean": "clean", "attacked": "worst", "certified": "certified", "undecided": "undecided"}  # fields of Row
METRICS = ("certified_accuracy", "average_certified_radius", "undecided", "failure_probability")
CSV_HEAD = (
    *("dataset", "budget", "model"),
    *(f"{name}{end}" for name in COLUMNS for end in ("", "_low", "_high")),
    *("n", "attacks", "certifiers", "complete"),
)


def table_csv(boards: list[Table]) -> str:
    """One row for each model of each table that has certifiers: made to be read by programs.

    attacks and certifiers: how many of the row's finished. complete: whether all of the table's attacks did.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_HEAD)
    for board in (board for board in boards if board.certifiers):
        writer.writerows([board.dataset, board.budget, row.model, *_numbers(board, row)] for row in board.rows)
    return file.getvalue()


def _numbers(board: Table, row: Row) -> list:
    found = []
    for name in COLUMNS.values():
        metric = getattr(row, name)
        found += ["", "", ""] if metric is None else [metric.value, metric.low, metric.high]
    ran = [sum(metric is not None for metric in done.values()) for done in (row.attacks, row.certifiers)]
    return [*found, board.n, *ran, row.complete and bool(board.attacks)]
