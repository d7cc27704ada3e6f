"""Leaderboard files: Markdown, CSV, LaTeX and one self-contained HTML page, with curves as PNG and SVG.

Everything is a function of records: the same records give the same bytes.
"""

import csv
import dataclasses
import io
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

from robustbench_jax.bench import (
    band_plots,
    certified_table,
    corruption_report,
    corruption_table,
    cost,
    extraction_table,
    monitoring_table,
    obfuscation_report,
    ownership_table,
    plots,
    poisoning_table,
    privacy_table,
    seeds,
    sheets,
    surface_plots,
    training_plots,
    trainings,
    transfer_table,
    worst_cases,
    worst_plots,
)
from robustbench_jax.bench.bands import bands
from robustbench_jax.bench.curves import Curve, along_eps, along_queries
from robustbench_jax.bench.leaderboard import Row, Table, alarms, tables
from robustbench_jax.bench.records import MetricValue, Record
from robustbench_jax.bench.sheets import Sheet
from robustbench_jax.definitions import DEFINITIONS, heading
from robustbench_jax.whole_files import write_whole

FORMATS = ("md", "csv", "tex", "html")
NAMES = {"md": "leaderboard.md", "csv": "leaderboard.csv", "tex": "leaderboard.tex", "html": "leaderboard.html"}
NOTE = (
    "Accuracies in % with exact 95% intervals (Clopper-Pearson). Worst case: robust against every attack of the table. "
    "p: McNemar's exact test of the worst case against the row above; rows share a rank where p ≥ 0.05. "
    "≤: an attack of the table failed or is missing, so the row has only a bound and no rank."
)
CAPTIONS = {
    "curves": "Robust accuracy against eps",
    "queries": "Robust accuracy against queries",
    "certified": "Attacked and certified accuracy against eps",
    "trainings": "Accuracy of training and of images held out against epochs",
    "surfaces": "The margin around the first image, along its gradient and a random direction",
    "worst_cases": "What the worst lie leaves, by aggregation rule, how images are dealt out, and how many clients lie",
}
CSV_HEAD = (
    *("threat", "dataset", "split", "examples", "model", "defence", "recipe", "attack", "budget", "seed"),
    *("status", "metric", "value", "low", "high", "n", "cell", "heading"),
)
CSV_MORE = ("certifier", "model_defence", "data_defence", "inspection", "monitor")
TEX = {
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "–": "--",
    "·": r"$\cdot$",
    "≤": r"$\leq$",
    "<": r"$<$",
    **{mark: "\\" + mark for mark in "_%&#{}$"},
}


def write_reports(
    records: list[Record],
    out: str | Path,
    title: str,
    formats: Iterable[str] = FORMATS,
    *,
    baseline: str | None = None,
) -> list[Path]:
    """Writes the leaderboard in each format, and the curves, into `out`; returns the paths.

    Corruptions come after it, and in a CSV file of their own. baseline: the model that mCE is measured against.
    """
    boards, warnings = tables(records), alarms(records) + corruption_table.alarms(records)
    corrupted = corruption_table.boards(records, baseline)
    pages = sheets_of(records)
    pages += [sheet for board in corrupted for sheet in corruption_report.sheets(board)]
    lines = {"curves": along_eps(records), "queries": along_queries(records)}
    pictures = {name: plots.curves([_plain(line) for line in found]) for name, found in lines.items() if found}
    if between := bands(records):
        pictures["certified"] = band_plots.picture(between)
    if trained := trainings.trainings(records):
        pictures["trainings"] = training_plots.picture(trained)
    if planes := obfuscation_report.surfaces(records):
        pictures["surfaces"] = surface_plots.picture(planes)
    if lies := worst_cases.maps(records):
        pictures["worst_cases"] = worst_plots.picture(lies)
    texts = {
        "md": lambda: markdown(boards, title, warnings, list(pictures), pages, flags(records)),
        "csv": lambda: table_csv(records),
        "tex": lambda: latex(boards, pages),
        "html": lambda: html(boards, records, title, warnings, pictures, pages),
    }
    files = [(NAMES[f], texts[f]().encode()) for f in formats]
    files += [(f"{name}.{kind}", picture) for name, kinds in pictures.items() for kind, picture in kinds.items()]
    if any(board.certifiers for board in boards) and "csv" in formats:
        files.append(("certified.csv", certified_table.table_csv(boards).encode()))
    if corrupted and "csv" in formats:
        files.append(("corruptions.csv", corruption_report.table_csv(corrupted).encode()))
    written = []
    for name, content in files:
        path = Path(out, name)
        write_whole(path, lambda file, content=content: file.write(content))
        written.append(path)
    return written


def sheets_of(records: list[Record]) -> list[Sheet]:
    """The tables of text beside the leaderboard, but for those of corruptions."""
    tables = (
        *(transfer_table, obfuscation_report, poisoning_table, privacy_table, extraction_table, monitoring_table),
        *(ownership_table, seeds, trainings, cost),
    )
    return [sheet for table in tables for sheet in table.sheets(records)]


def markdown(
    boards: list[Table],
    title: str,
    warnings: list[str],
    pictures: Sequence[str] = (),
    pages: Sequence[Sheet] = (),
    doubts: Sequence[str] = (),
) -> str:
    lines = [f"# {title}", "", *([note(boards), ""] if boards or not pages else [])]
    for board in boards:
        head = ["Rank", "Model", "Clean", *(f"`{it}`" if called else it for it, called in heads(board)), "p vs above"]
        lines += [
            f"## {board.title}",
            "",
            f"n = {board.n}",
            "",
            sheets.bar(head),
            sheets.bar(["---:", ":---"] + ["---:"] * (len(head) - 2)),
        ]
        lines += [sheets.bar([row.rank, f"`{row.model}`", *_cells(board, row)]) for row in board.rows] + [""]
    for picture in pictures:
        lines += [f"![{CAPTIONS[picture]}]({picture}.png)", ""]
    lines += [sheets.markdown(pages)] if pages else []
    lines += ["## Alarms", "", *(f"- {warning}" for warning in warnings), ""] if warnings else []
    lines += ["## Flags", "", *(f"- {doubt}" for doubt in doubts), ""] if doubts else []
    return "\n".join(lines)


def table_csv(records: list[Record]) -> str:
    """One row for each metric of each record: made to be read by programs. Columns of certifiers and of what is done to
    data and model where there are any.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    more = [name for name in CSV_MORE if any(getattr(record.cell, name) for record in records)]
    writer.writerow([*CSV_HEAD[:8], *more, *CSV_HEAD[8:]])
    for record in records:
        cell = record.cell
        what = (cell.threat, cell.show("dataset"), cell.split, cell.examples or "all")
        how = [cell.show(name) for name in ("model", "defence", "recipe", "attack", *more, "budget")]
        for metric, m in record.metrics.items() or [("", MetricValue(value=None, n=0, low=None, high=None))]:
            values = ["" if value is None else value for value in (m.value, m.low, m.high)]
            writer.writerow([*what, *how, cell.seed, record.status, metric, *values, m.n, record.id, heading(metric)])
    return file.getvalue()


def latex(boards: list[Table], pages: Sequence[Sheet] = ()) -> str:
    r"""One booktabs table a threat model; needs \usepackage{booktabs}."""
    parts = ["% \\usepackage{booktabs}"]
    for board in boards:
        between = [f"\\texttt{{{_tex(it)}}}" if called else it for it, called in heads(board)]
        head = ["", "Model", "Clean", *between, "$p$"]
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
            rf"\begin{{tabular}}{{rl{'r' * (len(head) - 2)}}}",
            r"\toprule",
            " & ".join(head) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    return "\n".join(parts) + "\n" + (sheets.latex(pages, _tex) if pages else "")


def html(
    boards: list[Table],
    records: list[Record],
    title: str,
    warnings: list[str],
    pictures: dict[str, dict[str, bytes]],
    pages: Sequence[Sheet] = (),
) -> str:
    """One page without any outside file: tables that sort, the curves, what each row was made with."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {
        "number": lambda m: -1 if m is None or m.value is None else m.value,
        "made_with": made_with,
        "p": _p,
        "heads": heads,
        "heading": heading,
    }
    template = resources.files("robustbench_jax.bench").joinpath("templates/leaderboard.html.j2").read_text()
    seconds = sum(record.timing.run_s + record.timing.compile_s for record in records)
    return environment.from_string(template).render(
        title=title,
        boards=boards,
        warnings=warnings,
        pictures=[(CAPTIONS[name], _inline(kinds["svg"])) for name, kinds in pictures.items()],
        note=note(boards) if boards or not pages else "",
        pages=pages,
        definitions=_definitions(boards),
        flags=flags(records),
        seconds=seconds,
        count=len(records),
    )


def _definitions(boards: list[Table]) -> dict:
    """All of them; those of certificates only where there are some."""
    certified = any(board.certifiers for board in boards)
    return {name: it for name, it in DEFINITIONS.items() if certified or name not in certified_table.METRICS}


def flags(records: list[Record]) -> list[str]:
    """What casts doubt on single results, or on the training of a model, a line each."""
    said = [f"{record.cell.label()}: {flag}" for record in records for flag in record.flags]
    return said + trainings.flags(records)


def made_with(records: list[Record]) -> dict[str, str]:
    """What a row's results have in their provenance, each different value once."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        made = record.provenance
        device, git = made.get("device") or {}, made.get("git") or {}
        for name, text in (
            *(("papers", paper) for paper in record.papers),
            ("weights", made.get("weights")),
            ("images", made.get("data")),
            ("device", f"{device['count']} × {device['kind']}" if {"count", "kind"} <= device.keys() else ""),
            ("versions", ", ".join(f"{k} {v}" for k, v in (made.get("versions") or {}).items())),
            ("commit", f"{git['commit']}{', modified' if git.get('modified') else ''}" if "commit" in git else ""),
        ):
            if text:
                found.setdefault(name, {})[str(text)] = None
    return {name: ", ".join(texts) for name, texts in found.items()}


def terminal(board: Table):
    """The table as rich prints it."""
    from rich.table import Table as RichTable

    made = RichTable(title=f"{board.title} · n = {board.n}", title_justify="left", header_style="bold")
    for head in ("", "Model", "Clean %", *(it if called else f"{it} %" for it, called in heads(board)), "p"):
        made.add_column(head, justify="left" if head == "Model" else "right", overflow="fold")
    for row in board.rows:
        made.add_row(row.rank, row.model, *(cell.replace(" [", "\n[") for cell in _cells(board, row)))
    return made


def note(boards: list[Table]) -> str:
    """What the numbers of these tables are."""
    return f"{NOTE} {certified_table.NOTE}" if any(board.certifiers for board in boards) else NOTE


def heads(board: Table) -> list[tuple[str, bool]]:
    """The columns between clean accuracy and p, and whether each is a call string."""
    found = [(name, True) for name in board.attacks] + [("Worst case", False)] * bool(board.attacks)
    if board.certifiers:
        found += [(name, True) for name in board.certifiers] + [("Certified", False), ("Undecided", False)]
    return found


def percent(metric: MetricValue | None) -> str:
    """ "86.8 [83.6, 89.6]", in per cent; a dash where there is nothing."""
    if metric is None or metric.value is None:
        return "–"
    low, high = (f"{100 * bound:.1f}" for bound in (metric.low, metric.high))
    return f"{100 * metric.value:.1f} [{low}, {high}]"


def _cells(board: Table, row: Row) -> list[str]:
    """Clean accuracy, the columns of `heads`, and p against the row above."""
    measured = row.attacks | row.certifiers
    shown = {name: "failed" if name in row.failed else percent(metric) for name, metric in measured.items()}
    bound = "≤ " if row.worst and not row.complete else ""
    shown |= {"Worst case": bound + percent(row.worst), "Certified": percent(row.certified)}
    shown |= {"Undecided": percent(row.undecided)}
    return [percent(row.clean), *(shown[name] for name, _ in heads(board)), _p(row)]


def _p(row: Row) -> str:
    if row.p_value is None:
        return "–"
    return "< 0.001" if row.p_value < 0.001 else f"{row.p_value:.3f}"


def _plain(line: Curve) -> Curve:
    """With names that the plot shows as they are: a dollar sign begins no formula."""
    return dataclasses.replace(line, model=line.model.replace("$", r"\$"), attack=line.attack.replace("$", r"\$"))


def _inline(svg: bytes) -> str:
    """The picture as part of the page: no ground of its own, and ink of the page's colour."""
    text = svg.decode()
    text = text[text.index("<svg") :]
    return text.replace("fill: #ffffff", "fill: none").replace("#000000", "currentColor")


def _tex(text: str) -> str:
    return "".join(TEX.get(mark, mark) for mark in text)
