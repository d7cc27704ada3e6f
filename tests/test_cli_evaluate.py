"""evaluate and compare on the command line: what they print where, and what they refuse."""

import json

import numpy as np
import pytest

from robustbench_jax.bench import records
from tests.bench.made_up import first, made_up
from tests.test_cli import COUNT, lab, run  # noqa: F401 fixtures


def evaluate(**changes: str) -> list[str]:
    right = {
        "model": 'checkpoint("{lab}/model")',
        "dataset": 'npz("{lab}/data.npz")',
        "budget": "linf(0.1)",
        "attack": "pgd(3)",
        "model-defence": "bit_depth(2)",
    }
    options = {name: value for name, value in (right | changes).items() if value is not None}
    return ["evaluate", *(word for name, value in options.items() for word in (f"--{name}", value))]


@pytest.mark.slow
def test_evaluate_prints_both_attacks_and_their_worst_case_and_keeps_the_records(run, tmp_path):  # noqa: F811
    code, out, err = run(*evaluate(), "--json", "--out", "kept")
    found = json.loads(out)
    static, adaptive = found["records"]
    assert code == 0 and static["cell"]["model_defence"] == "bit_depth(bits=2)"
    assert adaptive["cell"]["attack"].startswith("adaptive(attack=pgd(steps=3, ")
    both = np.array([record["per_example"]["robust"] for record in (static, adaptive)]).all(0)
    assert found["worst_case"]["value"] == both.mean() and found["worst_case"]["n"] == COUNT
    kept = {record.id for record in records.read_all(tmp_path / "kept")[0]}
    assert kept == {static["id"], adaptive["id"]}
    code, out, err = run(*evaluate())
    assert (code, out) == (0, "") and "worst case" in err and "pgd, past the front" in err


@pytest.mark.slow
def test_evaluate_with_checks_shows_them(run):  # noqa: F811
    code, out, err = run(*evaluate(), "--checks", "--json")
    *_, checks = json.loads(out)["records"]
    assert code == 0 and checks["cell"]["threat"] == "obfuscation"
    assert checks["metrics"]["failed_checks"]["n"] >= 6


@pytest.mark.parametrize(
    "arguments, message",
    [
        (evaluate(attack="square"), "adaptive: attack = square uses no gradients"),
        (evaluate(attack="pdg"), "no attack 'pdg'; did you mean 'pgd'?"),
        (evaluate(budget=None), "the following arguments are required: --budget"),
        ([*evaluate(), "--cheks"], "unrecognized arguments: --cheks; did you mean '--checks'?"),
        (["compare", "a", "b", "gone"], "there is no directory 'gone'"),
        (["compare", "a", "b"], "the following arguments are required: RESULTS_DIR"),
    ],
)
def test_a_wrong_evaluate_or_compare_is_one_line_and_exit_code_two(run, arguments, message):  # noqa: F811
    code, out, err = run(*arguments)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert message in err


def test_compare_shows_the_difference_and_names_a_wrong_model(run, tmp_path):  # noqa: F811
    for count, model in ((60, "mlp"), (45, "cnn")):
        records.write(tmp_path, made_up(first(count), model=model, weights=model))
    code, out, err = run("compare", "mlp", "cnn", ".")
    assert (code, out) == (0, "") and "+15.0" in err
    code, out, err = run("compare", "mlp", "cnn", ".", "--json")
    (found,) = json.loads(out)["compared"]
    assert code == 0 and (found["only_a"], found["only_b"], found["n"]) == (15, 0, 100)
    code, out, err = run("compare", "mlp", "cn", ".")
    assert code == 2 and "no model 'cn' among the records; did you mean 'cnn'?" in err
