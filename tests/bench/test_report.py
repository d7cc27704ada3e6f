"""Reports: the same numbers in every format, safe with any name, whole in one file, and the same bytes each time."""

import csv
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from robustbench_jax.bench import report
from robustbench_jax.bench.leaderboard import alarms, tables
from robustbench_jax.bench.records import MetricValue
from tests.bench.made_up import first, made_up, made_up_failure

VOID = {"meta", "br", "wbr", "link", "img", "input", "hr"}
HOSTILE = 'checkpoint("<script>alert(1)</script>|_$a_{$%&#~^")'


def some_records():
    """Two models, two attacks, three radii; one cell failed."""
    made = [
        made_up(first(int(value - 100 * eps)), model=model, attack=attack, budget=f"linf(eps={eps})")
        for model, value in (("mlp", 90), ("cnn", 60))
        for attack in ("fgsm", "pgd(steps=40)")
        for eps in (0.1, 0.2, 0.3)
    ]
    return [*made[:-1], made_up_failure(model="cnn", budget="linf(eps=0.3)")]


class Page(HTMLParser):
    """What a page holds; fails on tags that do not close in order."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


def page(records, pictures=None) -> str:
    return report.html(tables(records), records, "A title", alarms(records), pictures or {})


def test_all_files_are_written_and_the_same_records_give_the_same_bytes(tmp_path):
    records = some_records()
    once = report.write_reports(records, tmp_path / "a", "A title")
    again = report.write_reports(records, tmp_path / "b", "A title")
    names = [f"leaderboard.{kind}" for kind in ("md", "csv", "tex", "html")] + ["curves.png", "curves.svg"]
    assert [path.name for path in once] == names
    for a, b in zip(once, again, strict=True):
        assert a.read_bytes() == b.read_bytes(), a.name
    pixels = np.asarray(Image.open(tmp_path / "a" / "curves.png").convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10


def test_only_the_formats_asked_for_are_written_and_one_radius_has_no_curve(tmp_path):
    written = report.write_reports([made_up(first(9, 10))], tmp_path, "A title", ["csv"])
    assert [path.name for path in written] == ["leaderboard.csv"] == [path.name for path in tmp_path.iterdir()]


def test_markdown_shows_numbers_failures_bounds_and_ranks():
    text = report.markdown(tables(some_records()), "A title", [], [])
    rows = [line for line in text.splitlines() if line.startswith("|") and "`mlp`" in line or "`cnn`" in line]
    assert rows[0] == (
        "| 1 | `mlp` | 100.0 [96.4, 100.0] | 80.0 [70.8, 87.3] | 80.0 [70.8, 87.3] | 80.0 [70.8, 87.3] | – |"
    )
    assert rows[1].startswith("| 2 | `cnn` |") and rows[1].endswith("| < 0.001 |")
    assert rows[-1].startswith("| – | `cnn` |") and "| failed |" in rows[-1] and "| ≤ 30.0 [" in rows[-1]


def test_every_row_of_a_markdown_table_has_as_many_bars_as_its_head():
    records = [made_up(first(9, 10), model=HOSTILE), made_up(first(5, 10))]
    lines = [
        line for line in report.markdown(tables(records), "t", [], ["curves"]).splitlines() if line.startswith("|")
    ]
    assert len(lines) == 4
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {7}


def test_csv_has_a_row_a_metric_and_gives_the_numbers_back():
    records = some_records()
    rows = list(csv.DictReader(io.StringIO(report.table_csv(records))))
    assert len(rows) == 2 * (len(records) - 1) + 1
    one = next(row for row in rows if row["cell"] == records[0].id and row["metric"] == "robust_accuracy")
    metric = records[0].metrics["robust_accuracy"]
    assert [float(one[k]) for k in ("value", "low", "high", "n")] == [metric.value, metric.low, metric.high, 100]
    assert (one["threat"], one["model"], one["attack"], one["budget"]) == ("evasion", "mlp", "fgsm", "linf(0.1)")
    assert (rows[-1]["status"], rows[-1]["value"], rows[-1]["metric"]) == ("failed", "", "")


def test_latex_escapes_every_character_that_means_something():
    assert report._tex(r"a_b%c&d#e{f}g$h") == r"a\_b\%c\&d\#e\{f\}g\$h"
    assert report._tex("\\^~") == r"\textbackslash{}\textasciicircum{}\textasciitilde{}"
    assert report._tex("–·≤<") == r"--$\cdot$$\leq$$<$"


def test_latex_rows_have_the_columns_that_the_table_declares():
    text = report.latex(tables([*some_records(), made_up(first(9), model=HOSTILE)]))
    declared = [len(columns) for columns in re.findall(r"\\begin\{tabular\}\{(\w+)\}", text)]
    bodies = re.findall(r"\\toprule\n(.*?)\\bottomrule", text, re.S)
    assert len(declared) == len(bodies) == 3
    for columns, body in zip(declared, bodies, strict=True):
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {columns}
    assert text.count("{table}") == 2 * 3 and text.count(r"\midrule") == 3


def test_the_page_needs_nothing_from_outside(tmp_path):
    report.write_reports(some_records(), tmp_path, "A title", ["html"])
    text = (tmp_path / "leaderboard.html").read_text()
    found = Page(text)
    assert len(found.all("svg")) == 1 and "mlp" in "".join(found.texts)
    assert not [tag for tag, attributes in found.tags if tag in ("link", "img", "iframe") or "src" in attributes]
    assert not re.findall(r"@import|url\((?!#)|fetch\(|XMLHttpRequest", text)
    links = [v for _, attributes in found.tags for k, v in attributes.items() if k in ("href", "xlink:href")]
    assert links and all(link.startswith("#") for link in links)


def test_every_column_of_the_page_sorts_by_a_key_and_numbers_sort_as_numbers():
    found = Page(page(some_records()))
    heads = [attributes for attributes in found.all("th") if "aria-sort" in attributes]
    assert len(heads) == 3 * 7 and {head["aria-sort"] for head in heads} == {"none"}
    keys = [attributes["data-sort"] for attributes in found.all("td") if "data-sort" in attributes]
    assert len(keys) == 6 * 7
    assert [key for key in keys if not re.fullmatch(r"-?[\d.]+(e-\d+)?", key)] == ["mlp", "cnn"] * 3


def test_each_row_of_the_page_unfolds_to_what_it_was_made_with():
    found = Page(page(some_records()))
    targets = [attributes["aria-controls"] for attributes in found.all("button") if "aria-controls" in attributes]
    ids = [attributes["id"] for attributes in found.all("tr") if "id" in attributes]
    assert targets == ids and len(set(ids)) == 6
    text = " ".join("".join(found.texts).split())
    for part in ("madry2018", "0123abc, modified", "jax 0.10.2", "2 × cpu", "RuntimeError: boom", some_records()[0].id):
        assert part in text


def test_names_cannot_break_out_of_the_page():
    records = [made_up(first(9, 10), model=HOSTILE), made_up_failure("</td><script>", attack="fgsm", model=HOSTILE)]
    text = page(records)
    assert len(Page(text).all("script")) == 1
    assert "&lt;script&gt;alert(1)&lt;/<wbr>script&gt;" in text


def test_any_name_can_be_plotted(tmp_path):
    records = [made_up(first(9), model=HOSTILE, budget=f"linf(eps={eps})") for eps in (0.1, 0.2)]
    written = report.write_reports(records, tmp_path, HOSTILE)
    assert {path.name for path in written} >= {"curves.png", "curves.svg", "leaderboard.html"}
    assert len(Page((tmp_path / "leaderboard.html").read_text()).all("script")) == 1


def test_alarms_are_shown_in_markdown_and_on_the_page():
    records = [made_up(first(9, 10), clean=first(5, 10))]
    assert "- mlp · pgd · linf(0.1): more examples robust" in report.markdown(tables(records), "t", alarms(records), [])
    assert "more examples robust" in page(records)
    assert "Alarms" not in page(some_records())


def test_the_terminal_shows_what_markdown_shows():
    console = Console(width=200, file=io.StringIO())
    for board in tables(some_records()):
        console.print(report.terminal(board))
    text = console.file.getvalue()
    for part in ("mlp", "80.0", "failed", "≤ 30.0", "< 0.001", "linf(0.3)"):
        assert part in text


def test_what_a_row_was_made_with_names_each_value_once():
    records = [made_up(first(9)), made_up(first(8), attack="fgsm"), made_up(first(7), attack="a", weights="w1")]
    found = report.made_with(records)
    assert found["weights"] == "w0, w1" and found["papers"] == "madry2018" and found["images"] == "d0"
    assert report.made_with([records[0].model_copy(update={"provenance": {}, "papers": []})]) == {}


@pytest.mark.parametrize(
    "metric, shown",
    [
        (None, "–"),
        (MetricValue(value=None, n=0, low=None, high=None), "–"),
        (MetricValue(value=0.868, n=500, low=0.8356, high=0.8964), "86.8 [83.6, 89.6]"),
        (MetricValue(value=0.0, n=500, low=0.0, high=0.0073), "0.0 [0.0, 0.7]"),
    ],
)
def test_percentages(metric, shown):
    assert report.percent(metric) == shown


def test_no_records_make_an_empty_report():
    assert report.latex([]).strip() == r"% \usepackage{booktabs}"
    assert Page(page([])).all("table") == []
