"""Leaderboard files: Markdown, CSV, LaTeX and one self-contained HTML page, with robustness curves as PNG and SVG.

Everything is a function of records: the same records give the same bytes.
"""

import csv
import io
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from robustbench_jax.bench import plots
from robustbench_jax.bench.leaderboard import Row, Table, alarms, curves, tables
from robustbench_jax.bench.records import MetricValue, Record, write_whole
from robustbench_jax.metrics import DEFINITIONS

FORMATS = ("md", "csv", "tex", "html")
NAMES = {"md": "leaderboard.md", "csv": "leaderboard.csv", "tex": "leaderboard.tex", "html": "leaderboard.html"}
NOTE = (
    "Accuracies in % with exact 95% intervals (Clopper-Pearson). Worst case: robust against every attack of the row. "
    "Rows share a rank where McNemar's test of the worst case against the row above gives p ≥ 0.05."
)


def write_reports(records: list[Record], out: str | Path, title: str, formats: Iterable[str] = FORMATS) -> list[Path]:
    """Writes the leaderboard in each format, and the curves, into `out`; returns the paths."""
    boards, lines, warnings = tables(records), curves(records), alarms(records)
    pictures = plots.curves(lines) if lines else {}
    texts = {
        "md": lambda: markdown(boards, title, warnings, bool(pictures)),
        "csv": lambda: table_csv(records),
        "tex": lambda: latex(boards),
        "html": lambda: html(boards, records, title, warnings, pictures.get("svg")),
    }
    written = []
    for name, content in [(NAMES[f], texts[f]().encode()) for f in formats] + [
        (f"curves.{kind}", picture) for kind, picture in pictures.items()
    ]:
        path = Path(out, name)
        write_whole(path, lambda file, content=content: file.write(content))
        written.append(path)
    return written


def markdown(boards: list[Table], title: str, warnings: list[str], picture: bool) -> str:
    lines = [f"# {title}", "", NOTE, ""]
    for board in boards:
        head = ["Rank", "Model", "Clean", *(f"`{name}`" for name in board.attacks), "Worst case", "p"]
        lines += [
            f"## {board.title}",
            "",
            f"n = {board.n}",
            "",
            _bar(head),
            _bar(["---:", ":---"] + ["---:"] * (len(head) - 2)),
        ]
        lines += [_bar([row.rank, f"`{row.model}`", *_cells(board, row), _p(row)]) for row in board.rows] + [""]
    lines += ["![Robust accuracy against eps](curves.png)", ""] if picture else []
    lines += ["## Alarms", "", *(f"- {warning}" for warning in warnings), ""] if warnings else []
    return "\n".join(lines)


def table_csv(records: list[Record]) -> str:
    """One row for each metric of each record: made to be read by programs."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        [
            "dataset",
            "split",
            "examples",
            "model",
            "defence",
            "attack",
            "budget",
            "seed",
            "status",
            "metric",
            "value",
            "low",
            "high",
            "n",
            "cell",
        ]
    )
    for record in records:
        cell = record.cell
        names = (
            cell.show("dataset"),
            cell.split,
            cell.examples or "all",
            cell.show("model"),
            cell.show("defence"),
            cell.show("attack"),
            cell.show("budget"),
            cell.seed,
            record.status,
        )
        for metric, m in record.metrics.items() or [("", MetricValue(value=None, n=0, low=None, high=None))]:
            writer.writerow(
                [*names, metric, *("" if v is None else v for v in (m.value, m.low, m.high)), m.n, record.id]
            )
    return file.getvalue()


def latex(boards: list[Table]) -> str:
    r"""One booktabs table a threat model; needs \usepackage{booktabs}."""
    parts = ["% \\usepackage{booktabs}"]
    for board in boards:
        heads = ["", "Model", "Clean", *(f"\\texttt{{{_tex(name)}}}" for name in board.attacks), "Worst case"]
        body = [
            " & ".join([_tex(row.rank), f"\\texttt{{{_tex(row.model)}}}", *(_tex(cell) for cell in _cells(board, row))])
            + r" \\"
            for row in board.rows
        ]
        parts += [
            "",
            r"\begin{table}",
            r"\centering",
            r"\small",
            rf"\caption{{{_tex(board.title)}. Accuracy in \% with 95\% Clopper--Pearson intervals, $n = {board.n}$.}}",
            rf"\begin{{tabular}}{{rl{'r' * (len(heads) - 2)}}}",
            r"\toprule",
            " & ".join(heads) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    return "\n".join(parts) + "\n"


def html(boards: list[Table], records: list[Record], title: str, warnings: list[str], svg: bytes | None) -> str:
    """One page without any outside file: tables that sort, the curves, what each row was made with."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"percent": percent, "number": lambda m: -1 if m is None or m.value is None else m.value}
    template = resources.files("robustbench_jax.bench").joinpath("templates/leaderboard.html.j2").read_text()
    picture = svg.decode()[svg.decode().index("<svg") :] if svg else ""
    seconds = sum(record.timing.run_s + record.timing.compile_s for record in records)
    return environment.from_string(template).render(
        title=title,
        boards=boards,
        warnings=warnings,
        svg=picture,
        note=NOTE,
        definitions=DEFINITIONS,
        seconds=seconds,
        count=len(records),
    )


def terminal(board: Table):
    """The table as rich prints it."""
    from rich.table import Table as RichTable

    made = RichTable(title=f"{board.title} · n = {board.n}", title_justify="left", header_style="bold")
    for head in ("", "Model", "Clean %", *board.attacks, "Worst case %"):
        made.add_column(head, justify="left" if head == "Model" else "right", overflow="fold")
    for row in board.rows:
        made.add_row(row.rank, row.model, *(cell.replace(" [", "\n[") for cell in _cells(board, row)))
    return made


def percent(metric: MetricValue | None) -> str:
    """ "86.8 [83.6, 89.6]", in per cent; a dash where there is nothing."""
    if metric is None or metric.value is None:
        return "–"
    low, high = (f"{100 * bound:.1f}" for bound in (metric.low, metric.high))
    return f"{100 * metric.value:.1f} [{low}, {high}]"


def _cells(board: Table, row: Row) -> list[str]:
    attacks = ["failed" if name in row.failed else percent(row.attacks[name]) for name in board.attacks]
    return [percent(row.clean), *attacks, percent(row.worst)]


def _p(row: Row) -> str:
    return "–" if row.p_value is None else f"{row.p_value:.2g}"


def _bar(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _tex(text: str) -> str:
    for plain, written in (
        ("\\", "\\textbackslash "),
        ("_", r"\_"),
        ("%", r"\%"),
        ("&", r"\&"),
        ("#", r"\#"),
        ("{", r"\{"),
        ("}", r"\}"),
        ("^", r"\^{}"),
        ("~", r"\~{}"),
        ("–", "--"),
        ("·", r"$\cdot$"),
    ):
        text = text.replace(plain, written)
    return text
