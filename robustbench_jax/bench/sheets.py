"""Sheets: tables of text that reports show as they are, in Markdown, LaTeX, HTML and on the terminal."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass
class Sheet:
    """A table of text: the first column names the row, numbers follow."""

    title: str
    note: str
    head: list[str]
    rows: list[list[str]]


def markdown(pages: Sequence[Sheet]) -> str:
    lines = []
    for sheet in pages:
        lines += [f"## {sheet.title}", "", *([sheet.note, ""] if sheet.note else [])]
        lines += [bar(sheet.head), bar([":---"] + ["---:"] * (len(sheet.head) - 1)), *map(bar, sheet.rows), ""]
    return "\n".join(lines)


def latex(pages: Sequence[Sheet], escape: Callable[[str], str]) -> str:
    r"""One booktabs table a sheet; `escape` writes text for LaTeX."""
    parts = []
    for sheet in pages:
        rows = [" & ".join(map(escape, row)) + r" \\" for row in (sheet.head, *sheet.rows)]
        parts += ["", r"\begin{table}", r"\centering", r"\small"]
        parts += [rf"\caption{{{escape(sheet.title)}. {escape(sheet.note)}}}"]
        parts += [rf"\begin{{tabular}}{{l{'r' * (len(sheet.head) - 1)}}}", r"\toprule", rows[0], r"\midrule", *rows[1:]]
        parts += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(parts) + "\n"


def terminal(sheet: Sheet):
    """The sheet as rich prints it."""
    from rich.table import Table

    title = f"{sheet.title} · {sheet.note}" if sheet.note else sheet.title
    made = Table(title=title, title_justify="left", header_style="bold")
    for i, head in enumerate(sheet.head):
        made.add_column(head, justify="right" if i else "left", overflow="fold")
    for row in sheet.rows:
        made.add_row(*(text.replace(" [", "\n[") for text in row))
    return made


def bar(cells: list[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
