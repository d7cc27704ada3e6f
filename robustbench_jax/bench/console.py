"""What people see while it runs: progress bars, tables and messages on stderr; catalogues on stdout."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from robustbench_jax.bench import corruption_report, corruption_table, obfuscation_report, report, sheets
from robustbench_jax.bench.cells import Cell
from robustbench_jax.bench.evaluation import Evaluation
from robustbench_jax.bench.leaderboard import alarms, tables
from robustbench_jax.bench.records import Record
from robustbench_jax.definitions import heading
from robustbench_jax.models import zoo
from robustbench_jax.registry import discover

err = Console(stderr=True, highlight=False)
if not err.is_terminal:
    err = Console(stderr=True, highlight=False, width=120)


class Rate(ProgressColumn):
    """Steps a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.1f}/s" if task.speed else "–/s", style="dim")


class Bars:
    """One bar for the sweep, one for what is running in it."""

    def __init__(self, progress: Progress):
        self.progress = progress
        self.tasks: dict[str, Any] = {}

    def cells(self, count: int) -> Callable[[int, Cell, int], Callable[[int], None]]:
        """For the runner: told of each cell, it returns what reports the examples that are settled."""
        whole = self.progress.add_task("cells", total=count) if count > 1 else None

        def begin(number: int, cell: Cell, examples: int) -> Callable[[int], None]:
            if whole is not None:
                self.progress.update(whole, completed=number)
            task = self._fresh("certify" if cell.certifier else "attack", cell.label(), examples)

            def settled(done: int) -> None:
                self.progress.update(task, completed=done)
                if whole is not None and done == examples:
                    self.progress.update(whole, completed=number + 1)

            return settled

        return begin

    def training(self, what: str, step: Any) -> None:
        """For fit: loss and accuracy of the last reported step, and on the images held out."""
        name = f"training {what.split('(')[0]} · loss {step.loss:.3f} · accuracy {step.accuracy:.3f}"
        for kind in ("clean", "robust"):
            name += "" if getattr(step, kind) is None else f" · {kind} {getattr(step, kind):.3f}"
        if step.warning:
            self.progress.console.print(f"FLAG training {what.split('(')[0]}: {step.warning}", markup=False)
        task = self.tasks.get("training")
        if task is None:
            task = self._fresh("training", name, step.steps)
        self.progress.update(task, description=name, completed=step.step)
        if step.step == step.steps:
            self.progress.remove_task(self.tasks.pop("training"))

    def _fresh(self, slot: str, description: str, total: int) -> Any:
        if slot in self.tasks:
            self.progress.remove_task(self.tasks[slot])
        self.tasks[slot] = self.progress.add_task(description, total=total)
        return self.tasks[slot]


@contextmanager
def progress() -> Iterator[Bars]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    seen = err.is_interactive or err.is_jupyter  # elsewhere rich would leave an empty line
    with Progress(*columns, console=err, transient=True, disable=not seen) as bars:
        yield Bars(bars)


def say(text: str) -> None:
    err.print(text, markup=False, soft_wrap=True)


def show(records: list[Record], baseline: str | None = None) -> None:
    """The leaderboard on the terminal, with its alarms; of the corruption table the models and the corruptions."""
    for board in tables(records):
        err.print(report.terminal(board))
    for sheet in report.sheets_of(records):
        page(sheet)
    for board in corruption_table.boards(records, baseline):
        for sheet in corruption_report.sheets(board)[:2]:
            err.print(sheets.terminal(sheet))
    for warning in alarms(records) + corruption_table.alarms(records):
        say(f"ALARM {warning}")
    for flag in report.flags(records):
        say(f"FLAG {flag}")


def page(sheet: sheets.Sheet) -> None:
    err.print(sheets.terminal(sheet))


def show_evaluation(found: Evaluation) -> None:
    """Both attacks, their worst case, what each stage of the adaptive one did, and the checks."""
    first = found.static.cell
    table = Table(title=f"{first.victim} · {first.show('budget')}", title_justify="left", header_style="bold")
    for head in ("attack", "robust accuracy %", "n", "s"):
        table.add_column(head, justify="left" if head == "attack" else "right")
    table.add_row("clean images", report.percent(found.static.metrics["clean_accuracy"]), str(found.worst.n), "")
    for what, record in (("static", found.static), ("adaptive", found.adaptive)):
        metric, seconds = record.metrics["robust_accuracy"], record.timing.run_s + record.timing.compile_s
        table.add_row(f"{what}: {record.cell.method}", report.percent(metric), str(metric.n), f"{seconds:.1f}")
    table.add_row("worst case", report.percent(found.worst), str(found.worst.n), "", style="bold")
    err.print(table)
    err.print(_stages(found.adaptive))
    if found.checks:
        page(obfuscation_report.sheet(found.checks))
    for record in found.records:
        for flag in record.flags:
            say(f"FLAG {record.cell.method}: {flag}")


def show_record(record: Record) -> None:
    """One record's metrics."""
    table = Table(title=record.cell.label(), title_justify="left", header_style="bold")
    for head in ("metric", "value", "95% interval", "n"):
        table.add_column(head, justify="left" if head == "metric" else "right")
    for name, m in record.metrics.items():
        known = m.value is not None
        interval = f"{m.low:.4g} – {m.high:.4g}" if known and m.low is not None else "–"
        table.add_row(heading(name), f"{m.value:.4g}" if known else "–", interval, str(m.n))
    err.print(table)
    if record.cell.certifier:
        err.print(_certifier(record))
    elif record.cell.threat == "obfuscation":
        page(obfuscation_report.sheet(record))
    elif len(record.stages) > 1:
        err.print(_stages(record))
    for flag in record.flags:
        say(f"FLAG {flag}")
    t = record.timing
    say(
        f"{t.run_s:.1f} s, and {t.compile_s:.1f} s compiling; {t.forward_evaluations:,} forward and "
        f"{t.gradient_evaluations:,} gradient evaluations"
    )


def _certifier(record: Record) -> Table:
    """What the certifier was asked, what it proved and met, what it counted."""
    table = Table(header_style="bold")
    (stage,), (seconds,) = record.stages, record.timing.stages_s
    for head in (*stage, "s"):
        table.add_column(head.replace("_", " "), justify="left" if head == "certifier" else "right")
    table.add_row(
        *(f"{value:,}" if isinstance(value, int) else str(value) for value in stage.values()), f"{seconds:.1f}"
    )
    return table


def _stages(record: Record) -> Table:
    """What each attack of a cascade saw, broke and cost."""
    table = Table(header_style="bold")
    for head in ("stage", "images", "broken", "forwards", "gradients", "s"):
        table.add_column(head, justify="left" if head == "stage" else "right")
    for stage, seconds in zip(record.stages, record.timing.stages_s, strict=False):
        counts = (f"{stage[key]:,}" for key in ("attacked", "broken", "forwards", "gradients"))
        table.add_row(stage["attack"], *counts, f"{seconds:.1f}")
    return table


def catalogue(what: str, kind: str | None) -> None:
    """Prints what is registered of one kind, with arguments and defaults."""
    out = Console(highlight=False)
    out.print(f"[bold]{what}[/bold]")
    if what == "zoo":
        for name in zoo.names():
            out.print(f"  {name}", markup=False)
    for name, entry in discover(kind).items() if kind else ():
        arguments = ", ".join(_argument(k, p) for k, p in entry.parameters.items())
        line = (inspect.getdoc(entry.make) or "").splitlines()
        budgets = entry.facts.get("budgets") or () if kind == "certifier" else ()
        facts = [entry.facts.get("access"), *budgets, entry.paper]
        tail = ", ".join(fact for fact in facts if fact)
        out.print(f"  {name}({arguments})" + (f"  [{tail}]" if tail else ""), markup=False, soft_wrap=True)
        if line:
            out.print(f"      {line[0]}", markup=False, style="dim", soft_wrap=True)


def _argument(name: str, parameter: inspect.Parameter) -> str:
    if parameter.default is inspect.Parameter.empty:
        return name
    return f"{name}={parameter.default!r}"
