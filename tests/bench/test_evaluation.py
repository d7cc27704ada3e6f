"""evaluate, and the obfuscation report as people read it; records older than their fields."""

import json

import jax
import numpy as np
import pytest

import robustbench_jax as rb
from robustbench_jax.bench import obfuscation_report, report, surface_plots
from robustbench_jax.bench.evaluation import attacks
from robustbench_jax.bench.records import Record, read, write
from robustbench_jax.bench.workshop import Workshop
from robustbench_jax.models import build_model, files
from robustbench_jax.types import UserError
from tests.bench.made_up import first, made_up

BUDGET = "linf(0.05)"


def test_the_static_attack_on_a_model_that_may_give_no_answer_does_not_know_so():
    assert attacks("pgd", False) == ["pgd", "adaptive(pgd)"]
    assert attacks("pgd", True, True) == ["transfer(pgd, twin=True)", "adaptive(pgd)", "checklist(pgd)"]


@pytest.mark.slow
def test_the_worst_case_is_an_and_over_both_attacks_and_the_defence_is_part_of_the_cell(linear):
    eps = 3 * float(np.median(linear.distance("linf")))
    attack = "pgd(steps=5, random_start=False)"
    found = rb.evaluate(linear.model, linear.data, f"linf({eps})", attack, "bit_depth(5)", pool=linear.data)
    static, adaptive = (np.array(record.per_example["robust"]) for record in (found.static, found.adaptive))
    assert static.mean() > adaptive.mean() + 0.5
    assert found.worst.value == np.mean(static & adaptive) and found.worst.n == 64 and found.checks is None
    assert {record.cell.model_defence for record in found.records} == {"bit_depth(bits=5)"}
    assert "past the front" in found.adaptive.stages[1]["attack"]
    assert found.static.timing.inference_s > 0
    written = json.loads(found.to_json())
    assert written["worst_case"]["value"] == found.worst.value and len(written["records"]) == 2


@pytest.mark.parametrize(
    "change, message",
    [
        ({"attack": "square"}, "adaptive: attack = square uses no gradients"),
        ({"model_defence": "bitdepth"}, "did you mean 'bit_depth'"),
        ({"budget": "linf(-1)"}, "eps = -1"),
        ({"model_defence": "bit_depth(4)"}, "give training images as pool"),
    ],
)
def test_wrong_arguments_are_named_before_anything_runs(change, message, linear):
    with pytest.raises(UserError, match=message):
        rb.evaluate(linear.model, linear.data, **{"budget": BUDGET} | change)


def examined(failed=("one step",), **cell):
    """A made-up record of checklist(pgd); the checks `failed` fail, the last does not apply."""
    made = made_up(first(7, 10), attack="checklist(pgd)", budget="linf(eps=0.05)", **cell)
    cell = made.cell.model_copy(update={"threat": "obfuscation"})
    lines = [
        {"check": name, "fails where": "here", "n": 10, "measured": {"p": 0.01, "left": [3, 2]}, "verdict": verdict}
        for name, verdict in [("one step", "fail" if "one step" in failed else "pass"), ("black box", "pass")]
    ]
    lines += [{"check": "transfer", "fails where": "there", "n": 0, "measured": {}, "verdict": "not applicable"}]
    lines += [{"check": "surface", "fails where": "", "values": np.linspace(-1, 1, 441).reshape(21, 21).tolist()}]
    count = made.metrics["robust_accuracy"].model_copy(update={"value": float(len(failed)), "n": 2})
    metrics = made.metrics | {"failed_checks": count}
    return made.model_copy(update={"id": cell.id, "cell": cell, "stages": lines, "metrics": metrics})


def test_the_report_names_what_fails_and_what_was_measured():
    overview, one, other = obfuscation_report.sheets([examined(), examined((), model="cnn"), made_up(first(3))])
    assert overview.head == ["Model", "Failed", "one step", "black box", "transfer"]
    assert overview.rows == [["mlp", "1 of 2", "fail", "pass", "–"], ["cnn", "0 of 2", "pass", "pass", "–"]]
    assert one.rows[0] == ["one step", "p 0.01, left 3 2", "10", "here", "fail"]
    assert other.rows[2] == ["transfer", "–", "0", "there", "not applicable"]


def test_the_page_has_the_checks_and_the_surfaces(tmp_path):
    written = report.write_reports([examined(), made_up(first(3))], tmp_path, "A title")
    assert {"surfaces.png", "surfaces.svg"} <= {path.name for path in written}
    for name in ("leaderboard.md", "leaderboard.html", "leaderboard.tex"):
        assert "obfuscation" in (tmp_path / name).read_text()
    boards = (tmp_path / "leaderboard.md").read_text().split("![")[0]
    assert "robust" in boards.lower() and "checklist" not in boards  # no column of the tables of robust accuracy
    (surface,) = obfuscation_report.surfaces([examined()])
    assert surface_plots.picture([surface])["png"].startswith(b"\x89PNG")


def test_a_record_of_checks_is_read_back_and_one_without_their_number_is_none(tmp_path):
    made = examined()
    assert read(write(tmp_path, made)) == made
    with pytest.raises(UserError, match="lacks failed_checks"):
        read(write(tmp_path, made.model_copy(update={"metrics": {}})))


def test_records_from_before_inference_was_timed_are_read():
    old = json.loads(made_up(first(3)).to_json())
    del old["timing"]["inference_s"]
    assert Record.model_validate(old).timing.inference_s == 0


def test_the_workshop_says_what_training_took_and_how_it_went_where_the_model_does(tmp_path):
    model = build_model("mlp([8])", (4, 4, 1), 3, jax.random.key(0))
    cost = {"seconds": 2.0, "steps": 4, "step_s": 0.5}
    went = {"curve": {"accuracy": [0.5], "kept": 1}, "flags": ["it collapsed"]}
    said = {"timed": {"training": cost} | went, "other": {"training": {"epochs": 3}} | went, "plain": {}}
    for name, more in said.items():
        files.save(tmp_path / name, model, files.describe(model, "mlp([8])", (4, 4, 1), 3, **more))
        cell = made_up(first(3), model=f'checkpoint(path="{tmp_path / name}")').cell
        assert Workshop(tmp_path / "victims").training(cell) == (cost | went if name == "timed" else None)
